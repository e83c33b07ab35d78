"""What goes over the wire: one module for each resource, made from the domain's values by `of`."""
