"""Everything of the field, one package a stage; the engine finds these by entry point and never imports them."""
