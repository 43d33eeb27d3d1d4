"""KOPF. The only importer of kopf: plans come and go here, everything else is a turn of ``reconcile``."""
