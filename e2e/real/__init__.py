"""Stories on a real node: pods that run, probes that ask, a kubelet that mounts, a proxy that forwards."""
