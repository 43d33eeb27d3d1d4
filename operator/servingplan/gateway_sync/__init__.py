"""The process beside a gateway: it watches routing and replicas in the cluster and keeps the gateway's files."""
