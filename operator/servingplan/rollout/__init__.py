"""PURE. From where the cluster is to where the plan wants it: the next writes that are safe, as values.

    state     what a step starts from, what it works towards, and what bounds it
    placement which pod belongs on which node, as the plan packs them
    removal   how to make a Deployment lose exactly the pods that we mean
    owners    who else sets the number of replicas
    drains    which replicas may leave now, and which must wait for others
    growth    how far pools may grow and shrink under the budget
    next      the order of all of this
    expected  the world as writes and time are expected to leave it
    transition what the steps to come will be, by asking ``next`` of expected worlds

Level-triggered: nothing is remembered between turns but what stands in the cluster. Capacity grows before traffic moves
to it, traffic leaves before capacity shrinks, and no write lifts spend over the budget.
"""
