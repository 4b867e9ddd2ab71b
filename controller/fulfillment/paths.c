/*
 * Paths through a graph in compressed sparse rows, for topology.py, which says what is asked.
 *
 *   find_path ──▶ search from both ends: the most preferred path           (enough, if it is short and quick enough)
 *             └─▶ label setting with dominance: of those that are, the most preferred
 *   find_tree ──▶ Dijkstra: the most preferred path to every node
 *
 * Both of find_path are guided by landmarks: no way from v to t is shorter than |d(landmark, t) - d(landmark, v)|
 * (Goldberg and Harrelson, "Computing the shortest path: A* search meets graph theory", 2005). Links that are not taken
 * make ways only longer, so the bound holds without them.
 *
 * What is less is preferred: (first weight, second weight, hops), compared in this order. Of equals the one that was
 * found first stays, and edges are looked at in the order of the rows, so that equal graphs give equal paths.
 *
 * A path that has waypoints to pass may come to a node once before each of them, and once after: it is searched for among
 * states, which are nodes and how many waypoints are passed.
 */
#include "paths.h"

int before(const struct rank *a, const struct rank *b)
{
	if (a->first != b->first)
		return a->first < b->first;
	if (a->second != b->second)
		return a->second < b->second;
	return a->hops < b->hops;
}

static int comes_first(const struct place *a, const struct place *b)
{
	return before(&a->rank, &b->rank) || (!before(&b->rank, &a->rank) && a->order < b->order);
}

int push(struct heap *heap, const struct rank *rank, int32_t what)
{
	struct place place = {.rank = *rank, .order = heap->order++, .what = what};
	uint32_t i;

	if (heap->size == heap->room) {
		uint32_t room = heap->room ? 2 * heap->room : 1024;
		struct place *larger = realloc(heap->place, room * sizeof(*larger));

		if (!larger)
			return 0;
		heap->place = larger;
		heap->room = room;
	}
	for (i = heap->size++; i > 0; i = (i - 1) / 4) {
		if (!comes_first(&place, &heap->place[(i - 1) / 4]))
			break;
		heap->place[i] = heap->place[(i - 1) / 4];
	}
	heap->place[i] = place;
	return 1;
}

struct place pop(struct heap *heap)
{
	struct place top = heap->place[0], last = heap->place[--heap->size];
	uint32_t i = 0;

	for (;;) {
		uint32_t child = 4 * i + 1, best = child, end = child + 4 < heap->size ? child + 4 : heap->size;

		if (child >= heap->size)
			break;
		while (++child < end)
			if (comes_first(&heap->place[child], &heap->place[best]))
				best = child;
		if (!comes_first(&heap->place[best], &last))
			break;
		heap->place[i] = heap->place[best];
		i = best;
	}
	heap->place[i] = last;
	return top;
}

int may_take(const struct search *search, const struct demand *demand, int32_t edge)
{
	const struct graph *graph = search->graph;
	int32_t link = graph->link[edge], to = graph->to[edge];

	return !demand->down[link] && graph->trust[link] >= demand->trust_min &&
	       search->not_link[link] != search->number && search->not_node[to] != search->number;
}

struct rank further(const struct graph *graph, const struct demand *demand, const struct rank *rank, int32_t edge)
{
	int64_t delay = graph->delay[graph->link[edge]], cost = graph->cost[graph->link[edge]];

	return (struct rank){
		.first = rank->first + (demand->prefer_cost ? cost : delay),
		.second = rank->second + (demand->prefer_cost ? delay : cost),
		.hops = rank->hops + 1,
	};
}

static int64_t delay_of(const struct demand *demand, const struct rank *rank)
{
	return demand->prefer_cost ? rank->second : rank->first;
}

static int64_t cost_of(const struct demand *demand, const struct rank *rank)
{
	return demand->prefer_cost ? rank->first : rank->second;
}

int is_within(const struct demand *demand, const struct label *label, int64_t delay, int64_t cost, int64_t loss)
{
	return (demand->delay_max < 0 || delay_of(demand, &label->rank) + delay <= demand->delay_max) &&
	       (demand->cost_max < 0 || cost_of(demand, &label->rank) + cost <= demand->cost_max) &&
	       (demand->loss_max < 0 || label->loss + loss <= demand->loss_max);
}

int holds(const struct graph *graph, const struct demand *demand, const int32_t *links, int32_t count)
{
	int64_t delay = 0, cost = 0, loss = 0;

	for (int32_t i = 0; i < count; i++) {
		delay += graph->delay[links[i]];
		cost += graph->cost[links[i]];
		loss += graph->loss[links[i]];
	}
	return count <= demand->hops_max && (demand->delay_max < 0 || delay <= demand->delay_max) &&
	       (demand->cost_max < 0 || cost <= demand->cost_max) && (demand->loss_max < 0 || loss <= demand->loss_max);
}

void begin(struct search *search, const struct demand *demand)
{
	search->number++;
	search->steps = demand->steps_max;
	for (int32_t i = 0; i < demand->without_nodes; i++)
		search->not_node[demand->node[i]] = search->number;
	for (int32_t i = 0; i < demand->without_links; i++)
		search->not_link[demand->not_link[i]] = search->number;
	search->side[0].heap.size = search->side[1].heap.size = 0;
	search->side[0].heap.order = search->side[1].heap.order = 0;
}

int reach(struct search *search, struct side *side, const struct rank *rank, int64_t pull, int32_t node, int32_t edge)
{
	struct rank key = *rank;

	if (side->seen[node] == search->number && !before(rank, &side->rank[node]))
		return 1;
	side->seen[node] = search->number;
	side->rank[node] = *rank;
	side->edge[node] = edge;
	key.first = 2 * key.first + pull;
	return push(&side->heap, &key, node);
}

/* What is left between two nodes, at least. */
static int64_t at_least(const int32_t (*way)[LANDMARKS], int32_t a, int32_t b)
{
	int32_t most = 0;

	if (!way)
		return 0;
	for (int i = 0; i < LANDMARKS; i++) {
		int32_t near = way[a][i], far = way[b][i], between = near > far ? near - far : far - near;

		if (near >= 0 && far >= 0 && between > most)
			most = between;
	}
	return most;
}

static int64_t pull_of(struct search *search, const struct demand *demand, int32_t node)
{
	const int32_t(*way)[LANDMARKS] = demand->prefer_cost ? search->graph->by_cost : search->graph->by_delay;

	if (search->pulled[node] != search->number) {
		search->pulled[node] = search->number;
		search->pull[node] = at_least(way, node, demand->target) - at_least(way, node, demand->source);
	}
	return search->pull[node];
}

/* Takes the next node out of the heap, NONE if there is none, and reaches its neighbours. Or NO_MEMORY. */
int32_t settle(struct search *search, const struct demand *demand, struct side *side)
{
	const struct graph *graph = search->graph;

	while (side->heap.size) {
		int32_t node = pop(&side->heap).what;

		if (side->final[node] == search->number)
			continue;
		side->final[node] = search->number;
		for (int32_t edge = graph->row[node]; edge < graph->row[node + 1]; edge++) {
			struct rank rank;

			if (!may_take(search, demand, edge))
				continue;
			rank = further(graph, demand, &side->rank[node], edge);
			if (side->final[graph->to[edge]] != search->number &&
			    !reach(search, side, &rank, 0, graph->to[edge], edge))
				return NO_MEMORY;
		}
		return node;
	}
	return NONE;
}

struct rank sum(const struct rank *a, const struct rank *b)
{
	return (struct rank){a->first + b->first, a->second + b->second, a->hops + b->hops};
}

/* Writes the links of the path over `meeting`, in the order of travel; how many. */
static int32_t both_halves(const struct search *search, int32_t meeting, int32_t *links)
{
	const struct graph *graph = search->graph;
	int32_t node, edge, count = 0, i;

	for (node = meeting; (edge = search->side[0].edge[node]) != NONE; node = search->from[edge])
		count++;
	i = count;
	for (node = meeting; (edge = search->side[0].edge[node]) != NONE; node = search->from[edge])
		links[--i] = graph->link[edge];
	for (node = meeting; (edge = search->side[1].edge[node]) != NONE; node = search->from[edge])
		links[count++] = graph->link[edge];
	return count;
}

/*
 * The most preferred path, whatever its length and delay: its node in the middle, or NONE, or NO_MEMORY.
 *
 * Weights are doubled and corrected by the pull of their nodes, upward on one side and downward on the other, so that both
 * sides agree (Ikeda et al., "A fast algorithm for finding better routes by AI search techniques", 1994): what a meeting
 * node has from both together is twice the path. No side goes where even the nearest end of the other makes it no better
 * than what is known.
 */
static int32_t meet(struct search *search, const struct demand *demand, struct rank *best)
{
	const struct graph *graph = search->graph;
	const struct rank nothing = {0};
	struct rank twice = {0};
	int32_t meeting = NONE;

	if (!reach(search, &search->side[0], &nothing, pull_of(search, demand, demand->source), demand->source, NONE) ||
	    !reach(search, &search->side[1], &nothing, -pull_of(search, demand, demand->target), demand->target, NONE))
		return NO_MEMORY;
	if (demand->source == demand->target)
		return demand->source;
	while (search->side[0].heap.size && search->side[1].heap.size) {
		const struct rank near = search->side[0].heap.place[0].rank, far = search->side[1].heap.place[0].rank;
		struct rank least = sum(&near, &far);
		int turn = search->side[1].heap.size < search->side[0].heap.size;
		struct side *mine = &search->side[turn], *other = &search->side[!turn];
		int32_t node;

		if (meeting != NONE && !before(&least, &twice))
			break;
		node = pop(&mine->heap).what;
		if (mine->final[node] == search->number)
			continue;
		mine->final[node] = search->number;
		for (int32_t edge = graph->row[node]; edge < graph->row[node + 1]; edge++) {
			int32_t to = graph->to[edge];
			struct rank rank, whole;
			int64_t pull;

			if (mine->final[to] == search->number || !may_take(search, demand, edge))
				continue;
			rank = further(graph, demand, &mine->rank[node], edge);
			pull = turn ? -pull_of(search, demand, to) : pull_of(search, demand, to);
			if (other->seen[to] == search->number) {
				whole = sum(&rank, &other->rank[to]);
				if (meeting == NONE || before(&whole, best)) {
					*best = whole;
					twice = whole;
					twice.first *= 2;
					meeting = to;
				}
			} else if (meeting != NONE) {
				whole = sum(&rank, turn ? &near : &far);
				whole.first += rank.first + pull;
				if (!before(&whole, &twice))
					continue;
			}
			if (!reach(search, mine, &rank, pull, to, edge))
				return NO_MEMORY;
		}
	}
	return meeting;
}

/* Whether a label of the state is as good in all that still counts. They come in the order of preference. */
static int is_dominated(const struct search *search, const struct demand *demand, const struct label *label)
{
	int32_t i;

	if (search->labelled[label->state] != search->number)
		return 0;
	for (i = search->labels_of[label->state]; i != NONE; i = search->label[i].next) {
		const struct label *held = &search->label[i];

		if (held->rank.hops <= label->rank.hops &&
		    (demand->delay_max < 0 || delay_of(demand, &held->rank) <= delay_of(demand, &label->rank)) &&
		    (demand->cost_max < 0 || cost_of(demand, &held->rank) <= cost_of(demand, &label->rank)) &&
		    (demand->loss_max < 0 || held->loss <= label->loss))
			return 1;
	}
	return 0;
}

int32_t add_label(struct search *search, const struct label *label)
{
	if (search->steps-- <= 0)
		return GAVE_UP;
	if (search->labels == search->label_room) {
		int32_t room = search->label_room ? 2 * search->label_room : 4096;
		struct label *larger = realloc(search->label, room * sizeof(*larger));

		if (!larger)
			return NO_MEMORY;
		search->label = larger;
		search->label_room = room;
	}
	search->label[search->labels] = *label;
	return search->labels++;
}

int32_t arrive(const struct graph *graph, const struct demand *demand, int32_t state, int32_t node)
{
	int32_t passed = state / graph->nodes;

	while (passed < demand->waypoints && demand->waypoint[passed] == node)
		passed++;
	return passed * graph->nodes + node;
}

struct label extend(const struct search *search, const struct demand *demand, int32_t index, int32_t edge)
{
	const struct graph *graph = search->graph;
	const struct label *label = &search->label[index];

	return (struct label){
		.rank = further(graph, demand, &label->rank, edge),
		.loss = label->loss + graph->loss[graph->link[edge]],
		.state = arrive(graph, demand, label->state, graph->to[edge]),
		.before = index,
		.edge = edge,
		.next = NONE,
	};
}

int32_t links_of(const struct search *search, int32_t index, int32_t *links)
{
	int32_t count = search->label[index].rank.hops;

	for (int32_t at = index; search->label[at].before != NONE; at = search->label[at].before)
		links[search->label[at].rank.hops - 1] = search->graph->link[search->label[at].edge];
	return count;
}

/* 0: no memory. */
static int has_states(struct search *search, const struct demand *demand)
{
	int32_t states = search->graph->nodes * (demand->waypoints + 1);
	int32_t *labels_of;
	uint32_t *labelled;

	if (states <= search->states)
		return 1;
	labels_of = calloc(states, sizeof(*labels_of));
	labelled = calloc(states, sizeof(*labelled));
	if (!labels_of || !labelled) {
		free(labels_of);
		free(labelled);
		return 0;
	}
	free(search->labels_of);
	free(search->labelled);
	search->labels_of = labels_of;
	search->labelled = labelled;
	search->states = states;
	return 1;
}

int32_t label_path(struct search *search, const struct demand *demand, struct rank *best, int32_t *links)
{
	const struct graph *graph = search->graph;
	const int32_t(*way)[LANDMARKS] = demand->prefer_cost ? graph->by_cost : graph->by_delay;
	const int32_t goal = demand->waypoints * graph->nodes + demand->target;
	struct heap *heap = &search->side[0].heap;
	const struct rank nothing = {0};
	struct label start = {.before = NONE, .edge = NONE, .next = NONE};
	int32_t added;

	if (!has_states(search, demand) || !push(heap, &nothing, 0))
		return NO_MEMORY;
	start.state = arrive(graph, demand, 0, demand->source);
	search->labels = 0;
	added = add_label(search, &start);
	if (added < 0)
		return added;
	while (heap->size) {
		int32_t index = pop(heap).what, node;
		struct label label = search->label[index];

		if (is_dominated(search, demand, &label))
			continue;
		search->label[index].next =
			search->labelled[label.state] == search->number ? search->labels_of[label.state] : NONE;
		search->labels_of[label.state] = index;
		search->labelled[label.state] = search->number;
		if (label.state == goal) {
			*best = label.rank;
			return links_of(search, index, links);
		}
		if (label.rank.hops == demand->hops_max)
			continue;
		node = label.state % graph->nodes;
		for (int32_t edge = graph->row[node]; edge < graph->row[node + 1]; edge++) {
			int32_t to = graph->to[edge];
			struct label longer;
			struct rank key;

			if (!may_take(search, demand, edge))
				continue;
			longer = extend(search, demand, index, edge);
			if (!is_within(demand, &longer, at_least(graph->by_delay, to, demand->target),
				       at_least(graph->by_cost, to, demand->target), 0) ||
			    is_dominated(search, demand, &longer))
				continue;
			key = longer.rank;
			key.first += at_least(way, to, demand->target);
			added = add_label(search, &longer);
			if (added < 0)
				return added;
			if (!push(heap, &key, added))
				return NO_MEMORY;
		}
	}
	return NONE;
}

/*
 * The links of the most preferred path that `demand` allows, in the order of travel: how many; NONE: there is none;
 * GAVE_UP: none was found in so many steps; NO_MEMORY. `links` has room for hops_max, and for all nodes. `delay_cost`:
 * what the path takes.
 */
EXPORT int32_t find_path(struct search *search, const struct demand *demand, int32_t *links, int64_t *delay_cost)
{
	struct rank best = {0};
	int32_t count = NONE;

	if (!demand->waypoints) {
		int32_t meeting;

		begin(search, demand);
		meeting = meet(search, demand, &best);
		if (meeting < 0)
			return meeting;
		count = both_halves(search, meeting, links);
	}
	if (count == NONE || !holds(search->graph, demand, links, count)) {
		begin(search, demand);
		count = label_path(search, demand, &best, links);
	}
	delay_cost[0] = delay_of(demand, &best);
	delay_cost[1] = cost_of(demand, &best);
	return count;
}

/*
 * The most preferred path from the source to every node: its first weight (-1: there is none) and the edge by which it
 * comes. 0: done; or NO_MEMORY.
 */
EXPORT int32_t find_tree(struct search *search, const struct demand *demand, int64_t *weight, int32_t *by_edge)
{
	const struct rank nothing = {0};
	struct side *side = &search->side[0];
	int32_t node;

	begin(search, demand);
	if (!reach(search, side, &nothing, 0, demand->source, NONE))
		return NO_MEMORY;
	while ((node = settle(search, demand, side)) != NONE)
		if (node == NO_MEMORY)
			return NO_MEMORY;
	for (node = 0; node < search->graph->nodes; node++) {
		int is_there = side->final[node] == search->number;

		weight[node] = is_there ? side->rank[node].first : -1;
		by_edge[node] = is_there ? side->edge[node] : NONE;
	}
	return 0;
}

EXPORT void free_search(struct search *search)
{
	if (!search)
		return;
	for (int i = 0; i < 2; i++) {
		free(search->side[i].rank);
		free(search->side[i].edge);
		free(search->side[i].seen);
		free(search->side[i].final);
		free(search->side[i].heap.place);
	}
	free(search->pull);
	free(search->pulled);
	free(search->not_node);
	free(search->not_link);
	free(search->label);
	free(search->labels_of);
	free(search->labelled);
	free(search->from);
	free_pairs(search);
	free(search);
}

/* NULL: no memory. The graph's arrays must stay. */
EXPORT struct search *new_search(const struct graph *graph)
{
	struct search *search = calloc(1, sizeof(*search));
	size_t nodes = graph->nodes + 1;
	int is_complete;

	if (!search)
		return NULL;
	search->graph = graph;
	search->pull = calloc(nodes, sizeof(*search->pull));
	search->pulled = calloc(nodes, sizeof(*search->pulled));
	search->not_node = calloc(nodes, sizeof(*search->not_node));
	search->not_link = calloc(graph->links + 1, sizeof(*search->not_link));
	search->states = nodes;
	search->labels_of = calloc(nodes, sizeof(*search->labels_of));
	search->labelled = calloc(nodes, sizeof(*search->labelled));
	search->from = calloc(graph->edges + 1, sizeof(*search->from));
	is_complete = search->pull && search->pulled && search->not_node && search->not_link && search->labels_of &&
		      search->labelled && search->from;
	for (int i = 0; i < 2; i++) {
		struct side *side = &search->side[i];

		side->rank = calloc((i + 1) * nodes, sizeof(*side->rank));
		side->edge = calloc((i + 1) * nodes, sizeof(*side->edge));
		side->seen = calloc((i + 1) * nodes, sizeof(*side->seen));
		side->final = calloc((i + 1) * nodes, sizeof(*side->final));
		is_complete = is_complete && side->rank && side->edge && side->seen && side->final;
	}
	if (!is_complete) {
		free_search(search);
		return NULL;
	}
	for (int32_t node = 0; node < graph->nodes; node++)
		for (int32_t edge = graph->row[node]; edge < graph->row[node + 1]; edge++)
			search->from[edge] = node;
	return search;
}
