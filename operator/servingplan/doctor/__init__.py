"""``servingplan doctor``: what a cluster has and lacks for the operator. Only ``read`` asks the cluster; the rest is pure."""
