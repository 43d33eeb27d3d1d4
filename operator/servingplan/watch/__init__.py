"""EFFECT. The state of the cluster, kept by informers and shared by all plans.

informer   one kind of object: list, watch, resume, back off; holds parsed facts
state      all informers of a process: one lock, one snapshot; our own writes are in it at once
"""
