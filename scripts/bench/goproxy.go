// A reverse proxy as Comet's original in Go builds it: a new httputil.ReverseProxy for every request, on the default transport.
package main

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"
)

func main() {
	runtime.GOMAXPROCS(1)
	var targets []*url.URL
	for _, port := range os.Args[2:] {
		target, err := url.Parse("http://127.0.0.1:" + port)
		if err != nil {
			log.Fatal(err)
		}
		targets = append(targets, target)
		go check(target)
	}
	var turn uint64
	handler := func(w http.ResponseWriter, r *http.Request) {
		number := int((atomic.AddUint64(&turn, 1) - 1) % uint64(len(targets)))
		r.Header.Set("X-Forwarded-Proto", "http")
		r.Header.Set("X-Forwarded-Host", r.Host)
		r.Header.Add("Via", "1.1 go")
		w.Header().Add("Via", "1.1 go")
		w.Header().Set("X-Comet-Worker", "worker-"+strconv.Itoa(number))
		w.Header().Set("X-Comet-LB", "go")
		httputil.NewSingleHostReverseProxy(targets[number]).ServeHTTP(w, r)
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], http.HandlerFunc(handler)))
}

func check(target *url.URL) {
	for range time.Tick(5 * time.Second) {
		if answer, err := http.Get(target.String() + "/healthz"); err == nil {
			answer.Body.Close()
		}
	}
}
