"""EFFECT. Informers keep the state of the cluster, which all plans share.

informer   one kind of object: list, watch, resume, back off; holds parsed facts
state      all informers of a process: one lock, one snapshot; our own writes are in it at once
"""
