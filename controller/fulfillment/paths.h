/*
 * What a search through a graph works on: shared by paths.c, which finds one path, and disjoint.c, which finds two.
 */
#ifndef NETSTITCH_PATHS_H
#define NETSTITCH_PATHS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NONE      -1
#define NO_MEMORY -2
#define GAVE_UP   -3
#define LANDMARKS 16
#define EXPORT    __attribute__((visibility("default")))

struct graph {
	int32_t nodes;
	int32_t edges;
	int32_t links;
	const int32_t *row;   /* nodes + 1: where the edges of a node begin */
	const int32_t *to;    /* of each edge; the edge back has the same link */
	const int32_t *link;  /* of each edge */
	const int64_t *delay; /* of each link, µs */
	const int64_t *cost;  /* of each link */
	const int64_t *loss;  /* of each link, as it adds up: -ln of the share that arrives */
	const uint8_t *trust; /* of each link */
	/* Of each node its way from each landmark, or NONE. */
	const int32_t (*by_delay)[LANDMARKS];
	const int32_t (*by_cost)[LANDMARKS];
};

struct demand {
	int32_t source;
	int32_t target;
	int32_t prefer_cost; /* else delay */
	int32_t trust_min;
	int32_t hops_max;
	int32_t without_nodes; /* how many: inner nodes that are not taken */
	int32_t without_links;
	int32_t waypoints; /* how many: nodes to pass, in this order */
	const int32_t *node;
	const int32_t *not_link;
	const int32_t *waypoint;
	const uint8_t *down; /* of each link: it is not there now, or not to be taken */
	int64_t delay_max;   /* µs; negative: any */
	int64_t cost_max;    /* the same */
	int64_t loss_max;    /* the same */
	int64_t steps_max;   /* paths that are begun, until the search gives up */
};

struct rank {
	int64_t first;
	int64_t second;
	int32_t hops;
};

struct place { /* in a heap */
	struct rank rank;
	uint32_t order; /* of equals the one that came first */
	int32_t what;   /* node, or label */
};

struct heap {
	struct place *place;
	uint32_t size;
	uint32_t room;
	uint32_t order;
};

struct label { /* a path to a node */
	struct rank rank;
	int64_t loss;
	int32_t state;  /* waypoints that were passed * nodes + node */
	int32_t before; /* label; NONE: at the source */
	int32_t edge;   /* by which it came */
	int32_t next;   /* another label of the same state */
};

struct side {              /* one direction of a search; the second has room for two states of a node */
	struct rank *rank; /* of each node, as far as it has come */
	int32_t *edge;     /* by which its path came; NONE */
	uint32_t *seen;    /* search in which the two are of a node */
	uint32_t *final;   /* search in which it was taken out of the heap */
	struct heap heap;
};

struct search { /* what one thread works in */
	const struct graph *graph;
	uint32_t number;
	struct side side[2];
	int64_t *pull;      /* of each node: how much nearer it is to the target than to the source, at least */
	uint32_t *pulled;   /* search in which that is of a node */
	uint32_t *not_node; /* search in which a node, or a link, is not taken */
	uint32_t *not_link;
	struct label *label;
	int32_t labels;
	int32_t label_room;
	int32_t states;
	int32_t *labels_of; /* first label of a state */
	uint32_t *labelled;
	int64_t steps;       /* left */
	int32_t *from;       /* node where an edge begins */
	struct pairs *pairs; /* what disjoint.c works in beside; NULL: it was not asked yet */
};

int before(const struct rank *a, const struct rank *b);
struct rank sum(const struct rank *a, const struct rank *b);
int push(struct heap *heap, const struct rank *rank, int32_t what);
struct place pop(struct heap *heap);
/* A new search: nothing is reached. */
void begin(struct search *search, const struct demand *demand);
int may_take(const struct search *search, const struct demand *demand, int32_t edge);
struct rank further(const struct graph *graph, const struct demand *demand, const struct rank *rank, int32_t edge);
/* Whether a path with these links is short enough in all. */
int holds(const struct graph *graph, const struct demand *demand, const int32_t *links, int32_t count);
/* The node is reached, if nothing better has reached it. 0: no memory. */
int reach(struct search *search, struct side *side, const struct rank *rank, int64_t pull, int32_t node, int32_t edge);
/* Takes the next node out of the heap, NONE if there is none, and reaches its neighbours. Or NO_MEMORY. */
int32_t settle(struct search *search, const struct demand *demand, struct side *side);
int32_t add_label(struct search *search, const struct label *label);
/* State in which a path arrives that was in `state` before. */
int32_t arrive(const struct graph *graph, const struct demand *demand, int32_t state, int32_t node);
/* The label of the path that `edge` makes of another one. */
struct label extend(const struct search *search, const struct demand *demand, int32_t index, int32_t edge);
/* Whether what adds up in a path is within its bounds. */
int is_within(const struct demand *demand, const struct label *label, int64_t delay, int64_t cost, int64_t loss);
/* The links of a label's path, in the order of travel: how many. */
int32_t links_of(const struct search *search, int32_t index, int32_t *links);
/*
 * After `begin`: the most preferred path that is short and quick enough: how many links; NONE; NO_MEMORY; GAVE_UP. No
 * path is extended that cannot arrive in time.
 */
int32_t label_path(struct search *search, const struct demand *demand, struct rank *best, int32_t *links);
void free_pairs(struct search *search);
EXPORT struct search *new_search(const struct graph *graph);
EXPORT void free_search(struct search *search);

#endif
