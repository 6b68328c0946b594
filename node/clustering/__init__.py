"""What a node does with the cluster: what it tells the others, and what it makes of what they tell.

Tour: ``gossip`` (the cluster as seen from here), ``service`` (all of it together), then one file for each
thing that is shared: ``blocks``, ``failures``, ``counts``, ``directory``, ``notices``, ``kicks``,
``about``.
"""
