"""PURE. Which requests go to which replicas: shares, what gateways read of them, and what gateways report.

    admission     the admitted share of each class while fewer replicas are ready than planned
    spill         classes without a ready planned replica, sent to other replicas of their model
    document      the routing document: weights over ready replicas, and the ConfigMap that holds it
    carried       the rate of each class that the ready replicas carry
    checked       a document is checked before it becomes a gateway's configuration
    envoy, nginx, haproxy, httproute   the document in the language of each gateway
    route_reports what gateways report of an HTTPRoute
    publishing    the writes of a turn, and whether the gateways have taken them
    conditions    RoutingPublished and Degraded, as the plan's status shows them

``gateway_sync/`` runs beside a gateway and keeps its files; ``observe/gateway.py`` asks a gateway what it has taken.
"""
