"""The picture of the world as people ask for it: resources, and why they are as they are. Pure, as the core is."""
