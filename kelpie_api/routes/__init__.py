"""One module a resource: a schema in, one call of the rooms below, a schema out."""
