"""Whether replicas over several nodes can be rendered, as LeaderWorkerSets: not yet.

A plan that cannot be rendered must not be taken, so ``decide`` asks about such replicas only where both the cluster
serves the API and this says yes. Offline, ``servingplan plan --with-leader-worker-sets`` shows them all the same.
"""

RENDERS_LEADER_WORKER_SETS = False
"""Set with the rendering of ``leaderworkerset.x-k8s.io/v1``; nothing else keeps such replicas from being planned."""
