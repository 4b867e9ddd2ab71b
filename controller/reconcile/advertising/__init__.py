"""What domains tell each other unasked, and what follows from it.

routes of a neighbour ──▶ hearing: what counts of it ──▶ routes, stored
routes, links, policy ──▶ choosing: where each neighbour leads, which way is best ──▶ reaches, for plans
                            └▶ learning: networks and services of others, in the inventory
                            └▶ telling: what each neighbour is to know ──▶ routes to it
"""
