/*
 * Two paths that share nothing: no link, no inner node, or no risk (shared risk link groups, RFC 4202).
 *
 *   find_pair ──▶ two shortest searches: the pair that is shortest together            (enough, if both hold the demand)
 *             └─▶ every path that holds the demand, in the order of preference, each with the most preferred other that
 *                 shares nothing with it; until no pair can be shorter together than the one that was found
 *
 * The first is Suurballe's (Suurballe and Tarjan, "A quick method for finding shortest pairs of disjoint paths", 1984),
 * with nodes split in two for paths that share none (Bhandari, "Survivable Networks", 1999). With bounds, or with risks,
 * the question is NP-hard (Li, McCormick and Simchi-Levi, 1990; Hu, 2003), so the second may give up after so many steps.
 *
 * Waypoints are passed by both paths; they count as no shared nodes.
 */
#include "paths.h"

enum apart {
	APART_LINKS,
	APART_NODES,
	APART_RISKS
};

enum metric {
	DELAY,
	COST,
	LOSS,
	HOPS,
	METRICS
};

struct risks {              /* which links share what */
	const int32_t *row; /* links + 1: where the risks of a link begin */
	const int32_t *risk;
	const int32_t *link_row; /* risks + 1: where the links of a risk begin */
	const int32_t *link;
};

struct pairs {
	struct search *other; /* finds the path beside one */
	uint32_t *on_path;    /* of each node: search in which it is on the first path */
	int32_t *came;        /* of each state, of the second search: the state before */
	struct rank *to_go;   /* of each node: to the target, at least */
	int64_t *least[METRICS];
	int32_t *first; /* links of a path, as many as a search may have */
	int32_t *second;
	int32_t room;
};

struct arc { /* of the two paths together */
	int32_t link;
	int32_t to;
	int32_t next; /* another arc from the same node */
};

static struct rank less(const struct rank *a, const struct rank *b)
{
	return (struct rank){a->first - b->first, a->second - b->second, a->hops - b->hops};
}

static struct rank rank_of(const struct graph *graph, const struct demand *demand, const int32_t *links, int32_t count)
{
	struct rank rank = {.hops = count};

	for (int32_t i = 0; i < count; i++) {
		rank.first += demand->prefer_cost ? graph->cost[links[i]] : graph->delay[links[i]];
		rank.second += demand->prefer_cost ? graph->delay[links[i]] : graph->cost[links[i]];
	}
	return rank;
}

/* ---- the pair that is shortest together */

/* How far it is to a node, or to the target where that is nearer. */
static struct rank potential(const struct search *search, const struct demand *demand, int32_t node)
{
	const struct side *side = &search->side[0];

	return side->rank[side->final[node] == search->number ? node : demand->target];
}

/* Whether the nodes of the first path are split in two: a state of the second search is then the node where the path would
 * come in, and beyond `nodes` where it goes out. */
static int is_split(const struct search *search, const struct demand *demand, enum apart apart, int32_t node)
{
	return apart == APART_NODES && search->pairs->on_path[node] == search->number && node != demand->source &&
	       node != demand->target;
}

/* The way that the second search takes from a state. 0: no memory. */
static int reach_beside(struct search *search, const struct demand *demand, enum apart apart, int32_t state)
{
	const struct graph *graph = search->graph;
	struct pairs *pairs = search->pairs;
	struct side *first = &search->side[0], *second = &search->side[1];
	int32_t node = state % graph->nodes;
	int is_in = is_split(search, demand, apart, node) && state < graph->nodes;
	int32_t back =
		pairs->on_path[node] == search->number ? first->edge[node] : NONE; /* by it the first path came */

	for (int32_t edge = graph->row[node]; edge < graph->row[node + 1]; edge++) {
		int32_t to = graph->to[edge], link = graph->link[edge], reached = to;
		struct rank rank = second->rank[state];

		if (!may_take(search, demand, edge) || to == demand->source)
			continue;
		if (back != NONE && link == graph->link[back]) {
			/* Against the first path: what that has gone is given back, and nothing is left of it in potentials. */
			if (is_split(search, demand, apart, to))
				reached = to + graph->nodes;
		} else {
			struct rank near = potential(search, demand, node), far = potential(search, demand, to);
			int32_t taken = pairs->on_path[to] == search->number ? first->edge[to] : NONE;

			if (is_in || (taken != NONE && link == graph->link[taken]))
				continue;
			rank = further(graph, demand, &rank, edge);
			rank = sum(&rank, &near);
			rank = less(&rank, &far);
		}
		if (second->seen[reached] == search->number && !before(&rank, &second->rank[reached]))
			continue;
		pairs->came[reached] = state;
		if (!reach(search, second, &rank, 0, reached, edge))
			return 0;
	}
	return 1;
}

/* Takes the two apart from what they use together: links that both pass, in opposite directions, are in neither. */
static int32_t take_apart(struct search *search, const struct demand *demand, int32_t *links, int32_t *counts)
{
	const struct graph *graph = search->graph;
	const struct side *first = &search->side[0], *second = &search->side[1];
	struct pairs *pairs = search->pairs;
	struct arc *arcs = malloc(2 * (size_t)(graph->nodes + 1) * sizeof(*arcs));
	int32_t count = 0, state, node, edge;

	if (!arcs)
		return NO_MEMORY;
	for (state = demand->target; second->edge[state] != NONE; state = pairs->came[state])
		search->not_link[graph->link[second->edge[state]]] = search->number; /* of the second path */
	for (int turn = 0; turn < 2; turn++) {
		state = node = demand->target;
		while ((edge = turn ? second->edge[state] : first->edge[node]) != NONE) {
			int32_t from = search->from[edge], to = graph->to[edge], link = graph->link[edge];
			int is_shared = turn ? pairs->on_path[from] == search->number && first->edge[from] != NONE &&
							graph->link[first->edge[from]] == link
					     : search->not_link[link] == search->number;

			if (!is_shared) {
				arcs[count].link = link;
				arcs[count].to = to;
				arcs[count].next =
					search->labelled[from] == search->number ? search->labels_of[from] : NONE;
				search->labels_of[from] = count++;
				search->labelled[from] = search->number;
			}
			node = from;
			state = turn ? pairs->came[state] : state;
		}
	}
	for (int path = 0; path < 2; path++) {
		counts[path] = 0;
		for (node = demand->source; node != demand->target;) {
			const struct arc *arc = &arcs[search->labels_of[node]];

			search->labels_of[node] = arc->next;
			*links++ = arc->link;
			counts[path]++;
			node = arc->to;
		}
	}
	free(arcs);
	return 1;
}

/* Two paths that share no link, or no inner node: 1, with their links one after the other. Or NONE, NO_MEMORY. */
static int32_t shortest_pair(struct search *search, const struct demand *demand, enum apart apart, int32_t *links,
			     int32_t *counts)
{
	struct side *first = &search->side[0], *second = &search->side[1];
	const struct rank nothing = {0};
	int32_t node;

	begin(search, demand);
	if (!reach(search, first, &nothing, 0, demand->source, NONE))
		return NO_MEMORY;
	do
		node = settle(search, demand, first);
	while (node >= 0 && node != demand->target);
	if (node < 0)
		return node;
	for (node = demand->target; node != demand->source; node = search->from[first->edge[node]])
		search->pairs->on_path[node] = search->number;
	if (!reach(search, second, &nothing, 0, demand->source, NONE))
		return NO_MEMORY;
	while (second->heap.size) {
		int32_t state = pop(&second->heap).what;

		if (second->final[state] == search->number)
			continue;
		second->final[state] = search->number;
		if (state == demand->target)
			return take_apart(search, demand, links, counts);
		if (!reach_beside(search, demand, apart, state))
			return NO_MEMORY;
	}
	return NONE;
}

/* ---- pairs with bounds or risks */

/* To every node from the target, by one metric alone; NONE where no way leads. */
static int32_t measure(struct search *search, const struct demand *demand, enum metric metric)
{
	const struct graph *graph = search->graph;
	const int64_t *const columns[METRICS] = {graph->delay, graph->cost, graph->loss, NULL};
	struct side *side = &search->side[1];
	struct rank rank = {0};

	begin(search, demand);
	if (!reach(search, side, &rank, 0, demand->target, NONE))
		return NO_MEMORY;
	while (side->heap.size) {
		int32_t node = pop(&side->heap).what;

		if (side->final[node] == search->number)
			continue;
		side->final[node] = search->number;
		for (int32_t edge = graph->row[node]; edge < graph->row[node + 1]; edge++) {
			if (!may_take(search, demand, edge))
				continue;
			rank.first =
				side->rank[node].first + (columns[metric] ? columns[metric][graph->link[edge]] : 1);
			if (!reach(search, side, &rank, 0, graph->to[edge], edge))
				return NO_MEMORY;
		}
	}
	for (int32_t node = 0; node < graph->nodes; node++)
		search->pairs->least[metric][node] = side->seen[node] == search->number ? side->rank[node].first : NONE;
	return 0;
}

/* The most preferred way to the target from every node. */
static int32_t measure_preferred(struct search *search, const struct demand *demand)
{
	struct demand back = *demand;
	struct side *side = &search->side[1];
	const struct rank nothing = {0};
	int32_t node;

	back.source = demand->target;
	begin(search, &back);
	if (!reach(search, side, &nothing, 0, demand->target, NONE))
		return NO_MEMORY;
	while ((node = settle(search, &back, side)) != NONE)
		if (node == NO_MEMORY)
			return NO_MEMORY;
	for (node = 0; node < search->graph->nodes; node++)
		if (side->seen[node] == search->number)
			search->pairs->to_go[node] = side->rank[node];
	return 0;
}

static int is_waypoint(const struct demand *demand, int32_t node)
{
	for (int32_t i = 0; i < demand->waypoints; i++)
		if (demand->waypoint[i] == node)
			return 1;
	return 0;
}

/* From now on `search` takes nothing that the path has. */
static void keep_apart(struct search *search, const struct demand *demand, enum apart apart, const struct risks *risks,
		       const int32_t *links, int32_t count)
{
	const struct graph *graph = search->graph;
	int32_t node = demand->source;

	for (int32_t i = 0; i < count; i++) {
		int32_t edge = graph->row[node];

		search->not_link[links[i]] = search->number;
		while (graph->link[edge] != links[i])
			edge++;
		node = graph->to[edge];
		if (apart == APART_NODES && node != demand->target && node != demand->source &&
		    !is_waypoint(demand, node))
			search->not_node[node] = search->number;
		for (int32_t at = risks->row[links[i]]; apart == APART_RISKS && at < risks->row[links[i] + 1]; at++) {
			int32_t risk = risks->risk[at];

			for (int32_t j = risks->link_row[risk]; j < risks->link_row[risk + 1]; j++)
				search->not_link[risks->link[j]] = search->number;
		}
	}
}

static int share_risks(struct search *search, const struct demand *demand, const struct risks *risks,
		       const int32_t *links, const int32_t *counts)
{
	begin(search, demand);
	keep_apart(search, demand, APART_RISKS, risks, links, counts[0]);
	for (int32_t i = 0; i < counts[1]; i++)
		if (search->not_link[links[counts[0] + i]] == search->number)
			return 1;
	return 0;
}

static int was_there(const struct search *search, int32_t index, int32_t state)
{
	for (; index != NONE; index = search->label[index].before)
		if (search->label[index].state == state)
			return 1;
	return 0;
}

/* Begins every path that goes one link further than that of the label, and may yet hold the demand. */
static int32_t go_on(struct search *search, const struct demand *demand, int32_t index)
{
	const struct graph *graph = search->graph;
	const struct pairs *pairs = search->pairs;
	int32_t node = search->label[index].state % graph->nodes;

	for (int32_t edge = graph->row[node]; edge < graph->row[node + 1]; edge++) {
		int32_t to = graph->to[edge], added;
		struct label longer;
		struct rank key;

		if (!may_take(search, demand, edge) || pairs->least[HOPS][to] < 0)
			continue;
		longer = extend(search, demand, index, edge);
		if (longer.rank.hops + pairs->least[HOPS][to] > demand->hops_max ||
		    !is_within(demand, &longer, pairs->least[DELAY][to], pairs->least[COST][to],
			       pairs->least[LOSS][to]) ||
		    was_there(search, index, longer.state))
			continue;
		key = sum(&longer.rank, &pairs->to_go[to]);
		added = add_label(search, &longer);
		if (added < 0)
			return added;
		if (!push(&search->side[0].heap, &key, added))
			return NO_MEMORY;
	}
	return 0;
}

/* The pair that is shortest together of those that hold the demand; or the best that was found in so many steps. */
static int32_t search_pair(struct search *search, const struct demand *demand, enum apart apart,
			   const struct risks *risks, int32_t *links, int32_t *counts)
{
	const struct graph *graph = search->graph;
	const int32_t goal = demand->waypoints * graph->nodes + demand->target;
	struct pairs *pairs = search->pairs;
	struct search *other = pairs->other;
	struct heap *heap = &search->side[0].heap;
	struct label start = {.before = NONE, .edge = NONE, .next = NONE};
	struct rank best = {0};
	int32_t found = NONE, at_once;

	for (enum metric metric = 0; metric < METRICS; metric++)
		if (measure(search, demand, metric) < 0)
			return NO_MEMORY;
	if (measure_preferred(search, demand) < 0)
		return NO_MEMORY;
	begin(search, demand);
	if (pairs->least[HOPS][demand->source] < 0)
		return NONE;
	search->labels = 0;
	start.state = arrive(graph, demand, 0, demand->source);
	at_once = add_label(search, &start);
	if (at_once < 0)
		return at_once;
	if (!push(heap, &pairs->to_go[demand->source], at_once))
		return NO_MEMORY;
	while (heap->size) {
		struct place place = pop(heap);
		struct rank least = sum(&place.rank, &place.rank), ours, together;
		int32_t ours_count, beside, went;

		if (found != NONE && !before(&least, &best))
			return found; /* of a better pair both paths would be among those to come */
		if (search->label[place.what].state != goal) {
			went = go_on(search, demand, place.what);
			if (went == NO_MEMORY)
				return NO_MEMORY;
			if (went == GAVE_UP)
				return found == NONE ? GAVE_UP : found;
			continue;
		}
		ours = search->label[place.what].rank;
		ours_count = links_of(search, place.what, pairs->first);
		begin(other, demand);
		other->steps = search->steps;
		keep_apart(other, demand, apart, risks, pairs->first, ours_count);
		beside = label_path(other, demand, &together, pairs->second);
		search->steps = other->steps;
		if (beside == NO_MEMORY)
			return NO_MEMORY;
		if (beside == GAVE_UP)
			return found == NONE ? GAVE_UP : found;
		if (beside == NONE)
			continue;
		together = sum(&together, &ours);
		if (found == NONE || before(&together, &best)) {
			found = 1;
			best = together;
			memcpy(links, pairs->first, ours_count * sizeof(*links));
			memcpy(links + ours_count, pairs->second, beside * sizeof(*links));
			counts[0] = ours_count;
			counts[1] = beside;
		}
	}
	return found;
}

/* Whether even the pair that is shortest by a bounded metric is too long: then no pair holds the demand. */
static int32_t is_too_long(struct search *search, const struct demand *demand, enum apart apart, int32_t *links,
			   int32_t *counts)
{
	const int64_t bounds[] = {demand->delay_max, demand->cost_max};

	for (int metric = 0; metric < 2; metric++) {
		struct demand alone = *demand;
		int32_t found;

		if (bounds[metric] < 0)
			continue;
		alone.prefer_cost = metric == COST;
		found = shortest_pair(search, &alone, apart, links, counts);
		if (found < 0)
			return found;
		if (rank_of(search->graph, &alone, links, counts[0] + counts[1]).first > 2 * bounds[metric])
			return NONE;
	}
	return 0;
}

static void put_first(const struct graph *graph, const struct demand *demand, int32_t *spare, int32_t *links,
		      int32_t *counts)
{
	struct rank a = rank_of(graph, demand, links, counts[0]);
	struct rank b = rank_of(graph, demand, links + counts[0], counts[1]);
	int32_t count = counts[0];

	if (!before(&b, &a))
		return;
	memcpy(spare, links, count * sizeof(*links));
	memmove(links, links + count, counts[1] * sizeof(*links));
	memcpy(links + counts[1], spare, count * sizeof(*links));
	counts[0] = counts[1];
	counts[1] = count;
}

void free_pairs(struct search *search)
{
	struct pairs *pairs = search->pairs;

	if (!pairs)
		return;
	free_search(pairs->other);
	free(pairs->on_path);
	free(pairs->came);
	free(pairs->to_go);
	for (enum metric metric = 0; metric < METRICS; metric++)
		free(pairs->least[metric]);
	free(pairs->first);
	free(pairs->second);
	free(pairs);
	search->pairs = NULL;
}

/* 0: no memory. */
static int has_pairs(struct search *search, int32_t room)
{
	size_t nodes = search->graph->nodes + 1;
	struct pairs *pairs = search->pairs;
	int is_complete;

	if (pairs && pairs->room >= room)
		return 1;
	free_pairs(search);
	pairs = search->pairs = calloc(1, sizeof(*pairs));
	if (!pairs)
		return 0;
	pairs->room = room;
	pairs->other = new_search(search->graph);
	pairs->on_path = calloc(nodes, sizeof(*pairs->on_path));
	pairs->came = calloc(2 * nodes, sizeof(*pairs->came));
	pairs->to_go = calloc(nodes, sizeof(*pairs->to_go));
	pairs->first = calloc(room, sizeof(*pairs->first));
	pairs->second = calloc(room, sizeof(*pairs->second));
	is_complete = pairs->other && pairs->on_path && pairs->came && pairs->to_go && pairs->first && pairs->second;
	for (enum metric metric = 0; metric < METRICS; metric++) {
		pairs->least[metric] = calloc(nodes, sizeof(*pairs->least[metric]));
		is_complete = is_complete && pairs->least[metric];
	}
	if (!is_complete)
		free_pairs(search);
	return is_complete;
}

/*
 * Two paths that `demand` allows and that share nothing: 1; NONE: there are no such two; GAVE_UP: none were found in so
 * many steps; NO_MEMORY. `links` has room for twice `room`, which hops_max and the number of nodes are less than: those of
 * the more preferred path, then those of the other; `counts`: how many.
 */
EXPORT int32_t find_pair(struct search *search, const struct demand *demand, enum apart apart,
			 const struct risks *risks, int32_t *links, int32_t *counts, int32_t room)
{
	int32_t found;

	if (!has_pairs(search, room))
		return NO_MEMORY;
	if (!demand->waypoints) {
		found = shortest_pair(search, demand, apart, links, counts);
		if (found < 0)
			return found;
		if (holds(search->graph, demand, links, counts[0]) &&
		    holds(search->graph, demand, links + counts[0], counts[1]) &&
		    (apart != APART_RISKS || !share_risks(search, demand, risks, links, counts))) {
			put_first(search->graph, demand, search->pairs->first, links, counts);
			return 1;
		}
		found = is_too_long(search, demand, apart, links, counts);
		if (found < 0)
			return found;
	}
	found = search_pair(search, demand, apart, risks, links, counts);
	if (found == 1)
		put_first(search->graph, demand, search->pairs->first, links, counts);
	return found;
}
