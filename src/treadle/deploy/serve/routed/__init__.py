"""Names behind which several models stand: a router says which of them answers."""
