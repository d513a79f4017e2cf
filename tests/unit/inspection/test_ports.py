"""The way to a published port: NAT rules as iptables-save writes them."""

from comet.inspection import ports

RULES = """*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER -d 127.0.0.1/32 ! -i br-5276a827aa1f -p tcp -m tcp --dport 6000 -j DNAT --to-destination 172.18.0.2:8080
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 32768 -j DNAT --to-destination 172.17.0.3:8080
COMMIT
"""


def test_the_rules_of_one_port() -> None:
    assert ports.matching(RULES, 6000) == ("127.0.0.1:6000 → 172.18.0.2:8080",)
    assert ports.matching(RULES, 32768) == ("*:32768 → 172.17.0.3:8080",)
    assert ports.matching(RULES, 600) == ()


def test_loopback_clients_are_left_to_the_proxy() -> None:
    assert ports.skips_loopback(RULES)
    assert not ports.skips_loopback(RULES.replace("! -d 127.0.0.0/8 ", ""))


def test_a_proxy_belongs_to_a_port_and_a_target() -> None:
    known = [(7, "6000", "172.18.0.2:8080"), (8, "6000", "172.19.0.2:8080"), (9, "6001", "172.18.0.2:8080")]
    assert ports.forwarders(6000, "172.18.0.2:8080", None, known) == [7]
