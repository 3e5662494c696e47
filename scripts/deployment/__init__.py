"""``scripts/deploy``: brings ChatFlow to AWS and keeps it there, and rolls new releases through the instances.

A roll is written once (:mod:`.roll`) against what it needs of a place where instances run (:mod:`.fleet`). There are
two such places: an auto scaling group behind a load balancer (:mod:`.group`), and the cluster of ``scripts/cluster`` on
this machine (:mod:`.local`). Nothing is remembered here between two calls: what is under way is asked of that place.
"""
