"""Says whether replicas over several nodes can be rendered, as LeaderWorkerSets. They cannot yet.

A plan that cannot be rendered must not be taken. So ``decide`` considers such replicas only if the cluster serves the API and
this constant is True. Offline, ``servingplan plan --with-leader-worker-sets`` shows them anyway.
"""

RENDERS_LEADER_WORKER_SETS = False
"""Becomes True with the rendering of ``leaderworkerset.x-k8s.io/v1``; nothing else excludes such replicas."""
