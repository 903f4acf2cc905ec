"""Settings of a run as data: their schema, how they are loaded, the names that other systems gave them."""
