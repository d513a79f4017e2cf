// Which recoveries are compared: those of the same program. A worker is one as process and as container; a load balancer is another
// program with a spare that has started already, so it stands apart. The wait before a further attempt (backoff) counts in no median.

const FORMS = { process: "Worker as process", container: "Worker as container", task: "Worker as task" };

export const GROUPS = [
  ...Object.entries(FORMS).map(([kind, title]) => ({ key: `worker-${kind}`, kind, title, apart: false })),
  { key: "lb", kind: "process", title: "Load balancer (warm spare)", apart: true },
];

export const groupOf = ({ name, kind }) => (name.startsWith("lb-") ? "lb" : `worker-${kind}`);
