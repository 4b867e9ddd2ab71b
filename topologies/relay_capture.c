/* What crosses a link, as a file. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "relay.h"

#define CAPTURE_BUFFER (1 << 20) /* so that the disk is not waited for with each frame */

/* libpcap's savefile format (pcap-savefile(5)), magic of nanosecond resolution, Ethernet. */
bool begin_capture(struct client *client, struct link *link, const char *path, uint64_t count, double seconds)
{
	const uint32_t header[] = {0xa1b23c4d, 2 | 4 << 16, 0, 0, 65535, 1};

	client->file = fopen(path, "we");
	if (!client->file)
		return false;
	setvbuf(client->file, NULL, _IOFBF, CAPTURE_BUFFER);
	if (fwrite(header, sizeof(header), 1, client->file) != 1) {
		fclose(client->file);
		return false;
	}
	client->captured = link;
	client->remaining = count;
	client->frames = 0;
	client->until_ns = nanoseconds(CLOCK_MONOTONIC) + (uint64_t)(seconds * 1e9);
	link->capture = client;
	return true;
}

void end_capture(struct client *client)
{
	struct link *link = client->captured;
	char text[64];
	bool written = !ferror(client->file);

	link->capture = NULL;
	client->captured = NULL;
	written = fclose(client->file) == 0 && written;
	if (!written) {
		refuse(client, "capture on %s: the file could not be written: %s", link->name, strerror(errno));
		return;
	}
	snprintf(text, sizeof(text), "{\"ok\": true, \"frames\": %" PRIu64 "}\n", client->frames);
	answer(client, text);
}

void record(struct client *client, const uint8_t *data, uint32_t length)
{
	uint64_t time_ns = nanoseconds(CLOCK_REALTIME);
	const uint32_t header[] = {(uint32_t)(time_ns / 1000000000ull), (uint32_t)(time_ns % 1000000000ull), length,
				   length};

	fwrite(header, sizeof(header), 1, client->file);
	fwrite(data, length, 1, client->file);
	client->frames++;
	if (--client->remaining == 0)
		end_capture(client);
}
