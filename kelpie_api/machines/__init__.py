"""Machines: in come sightings from requests and bans from reports, out go reallocations asked of Salad."""
