"""PURE. Gateway routing: which share of each class goes to which Service, and what gateways are given of it.

    admission     the admitted share of each class while fewer replicas are ready than planned
    spill         classes without a ready planned replica, sent to other replicas of their model
    weights       the spread of each class over the ready replicas, and whole weights
    carried       the rate of each class that the ready replicas carry
    document      the routing document with these weights, and the ConfigMap that holds it
    checked       whether a document may become a gateway's configuration
    envoy, nginx, haproxy, httproute   the document in the language of each gateway
    route_reports what gateways report of an HTTPRoute
    publishing    the writes of a turn
    taken         whether the gateways have taken the published weights
    conditions    RoutingPublished and Degraded, as the plan's status shows them

The planner's own division of demand over copies is in ``solve/plan/routing.py``. Processes outside: ``observe/gateway.py``
asks a gateway what it has taken; ``gateway_sync/`` keeps the files of one.
"""
