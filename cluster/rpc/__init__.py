"""The RPC of a Serf agent, version 1: ``serf members``, ``serf query`` and their siblings work on a node."""

from .agent import Agent, AgentRefused
from .gossip import GossipAgent
from .server import DEFAULT_PORT, RpcServer

__all__ = ["DEFAULT_PORT", "Agent", "AgentRefused", "GossipAgent", "RpcServer"]
