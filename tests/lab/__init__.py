"""Three nodes, a database and an object store on a network of their own: network namespaces of this machine.

``python -m tests.lab --help`` for playing, ``make lab`` for the tests. The machines are set up by the scripts
that the Vagrant lab uses (``vagrant/provision``).
"""
