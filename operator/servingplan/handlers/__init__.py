"""KOPF. The only importer of kopf. It registers the handlers of plans; everything else is a turn of ``reconcile``."""
