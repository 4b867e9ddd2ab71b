/* The commands of the relay; relay.c lists them. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "relay.h"

static bool parse_mac(const char *text, uint8_t mac[6])
{
	char rest;

	return sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4],
		      &mac[5], &rest) == 6;
}

static void command_add(struct client *client, const char *arguments)
{
	char name[64], devices[2][IFNAMSIZ], macs[2][18];
	uint8_t mac[2][6];
	struct link *link;
	long pids[2];
	int mtu;

	if (sscanf(arguments, "%63s %ld %15s %17s %ld %15s %17s %d", name, &pids[0], devices[0], macs[0], &pids[1],
		   devices[1], macs[1], &mtu) != 8 ||
	    !parse_mac(macs[0], mac[0]) || !parse_mac(macs[1], mac[1]) || mtu < 68 || mtu > 9000) {
		refuse(client, "add: expected LINK PID DEVICE MAC PID DEVICE MAC MTU (68 to 9000), got: %s", arguments);
		return;
	}
	if (find_link(name) || link_count == LINKS) {
		refuse(client, "add %s: %s", name, find_link(name) ? "is there already" : "too many links");
		return;
	}
	link = calloc(1, sizeof(*link));
	if (!link) {
		refuse(client, "add %s: no memory", name);
		return;
	}
	memcpy(link->name, name, sizeof(name));
	link->up = true;
	for (int k = 0; k < 2; k++) {
		link->ends[k].link = link;
		link->ends[k].peer = &link->ends[!k];
		if (open_end(&link->ends[k], pids[k], devices[k], mac[k], mtu))
			continue;
		refuse(client, "add %s: TAP device %s in the namespace of process %ld: %s", name, devices[k], pids[k],
		       strerror(errno));
		for (; k >= 0; k--)
			close_end(&link->ends[k]);
		free(link);
		return;
	}
	links[link_count++] = link;
	answer(client, "{\"ok\": true}\n");
}

static void command_set(struct client *client, const char *arguments)
{
	uint64_t delay_us, rate_kbit;
	struct link *link;
	uint32_t loss_ppm;
	char name[64];

	if (sscanf(arguments, "%63s %" SCNu64 " %" SCNu64 " %" SCNu32, name, &delay_us, &rate_kbit, &loss_ppm) != 4 ||
	    delay_us > 10000000 || rate_kbit > 1000000000 || loss_ppm > 1000000) {
		refuse(client,
		       "set: expected LINK DELAY_US (to 10 s) RATE_KBIT (to 1 Tbit/s) LOSS_PPM (to 1000000), got: %s",
		       arguments);
		return;
	}
	link = find_link(name);
	if (!link) {
		refuse(client, "set %s: no such link", name);
		return;
	}
	link->delay_ns = delay_us * 1000;
	link->rate_bps = rate_kbit * 1000;
	link->loss_ppm = loss_ppm;
	answer(client, "{\"ok\": true}\n");
}

static void command_carrier(struct client *client, const char *name, bool up)
{
	struct link *link = find_link(name);

	if (!link) {
		refuse(client, "%s %s: no such link", up ? "up" : "down", name);
		return;
	}
	link->up = up;
	for (int k = 0; k < 2; k++) {
		discard(&link->ends[k]);
		if (!set_carrier(&link->ends[k], up)) {
			refuse(client, "carrier of %s: %s", link->ends[k].device, strerror(errno));
			return;
		}
	}
	answer(client, "{\"ok\": true}\n");
}

static void command_stats(struct client *client)
{
	char *text = NULL;
	size_t length;
	FILE *out = open_memstream(&text, &length);

	if (!out) {
		refuse(client, "stats: no memory");
		return;
	}
	fprintf(out, "{\"ok\": true, \"links\": {");
	for (unsigned i = 0; i < link_count; i++) {
		const struct link *link = links[i];

		fprintf(out,
			"%s\"%s\": {\"up\": %s, \"delay_us\": %" PRIu64 ", \"rate_kbit\": %" PRIu64
			", \"loss_ppm\": %" PRIu32,
			i ? ", " : "", link->name, link->up ? "true" : "false", link->delay_ns / 1000,
			link->rate_bps / 1000, link->loss_ppm);
		for (int k = 0; k < 2; k++) {
			const struct counts *counts = &link->ends[k].counts;

			fprintf(out,
				", \"%s\": {\"packets\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"lost\": %" PRIu64
				", \"dropped\": %" PRIu64 "}",
				k ? "b" : "a", counts->packets, counts->bytes, counts->lost, counts->dropped);
		}
		fprintf(out, "}");
	}
	fprintf(out, "}}\n");
	if (fclose(out) == 0)
		answer(client, text);
	else
		refuse(client, "stats: no memory");
	free(text);
}

static void command_capture(struct client *client, const char *arguments)
{
	uint64_t count;
	struct link *link;
	double seconds;
	char name[64];
	int path = 0;

	if (sscanf(arguments, "%63s %" SCNu64 " %lf %n", name, &count, &seconds, &path) != 3 || path == 0 ||
	    arguments[path] != '/' || count == 0 || !(seconds > 0 && seconds <= 86400)) {
		refuse(client, "capture: expected LINK COUNT SECONDS FILE (from /), got: %s", arguments);
		return;
	}
	link = find_link(name);
	if (!link) {
		refuse(client, "capture %s: no such link", name);
		return;
	}
	if (link->capture) {
		refuse(client, "capture %s: one is running there already", name);
		return;
	}
	if (!begin_capture(client, link, arguments + path, count, seconds))
		refuse(client, "capture %s: %s: %s", name, arguments + path, strerror(errno));
}

void execute(struct client *client)
{
	char *arguments = strchr(client->command, ' ');
	const char *verb = client->command;

	if (arguments)
		*arguments++ = 0;
	else
		arguments = strchr(client->command, 0);
	if (strcmp(verb, "add") == 0)
		command_add(client, arguments);
	else if (strcmp(verb, "set") == 0)
		command_set(client, arguments);
	else if (strcmp(verb, "down") == 0 || strcmp(verb, "up") == 0)
		command_carrier(client, arguments, *verb == 'u');
	else if (strcmp(verb, "stats") == 0)
		command_stats(client);
	else if (strcmp(verb, "capture") == 0)
		command_capture(client, arguments);
	else
		refuse(client, "unknown command %s: add, set, down, up, stats and capture are known", verb);
}
