"""Beside a gateway: follows routing and replicas in the cluster and keeps the gateway's files."""
