"""The version of Kelpie: of the coordinator and of the worker, which are released together."""

VERSION = "0.1.0"
