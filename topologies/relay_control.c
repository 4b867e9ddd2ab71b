/* The socket of the relay: one command a connection, one line of JSON as its answer. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "relay.h"

struct client clients[CLIENTS];

static void send_all(int fd, const char *text, size_t length)
{
	while (length > 0) {
		ssize_t sent = send(fd, text, length, MSG_NOSIGNAL);

		if (sent <= 0)
			return; /* who asked is gone */
		text += sent;
		length -= (size_t)sent;
	}
}

static void hang_up(struct client *client)
{
	close(client->source.fd);
	client->source.fd = -1;
}

void answer(struct client *client, const char *text)
{
	send_all(client->source.fd, text, strlen(text));
	hang_up(client);
}

void refuse(struct client *client, const char *format, ...)
{
	char reason[COMMAND_MAX], text[2 * COMMAND_MAX + 64], *to = text;
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reason, sizeof(reason), format, arguments);
	va_end(arguments);
	to += sprintf(to, "{\"ok\": false, \"error\": \"");
	for (const char *from = reason; *from; from++) {
		if ((uint8_t)*from < ' ')
			continue;
		if (*from == '"' || *from == '\\')
			*to++ = '\\';
		*to++ = *from;
	}
	strcpy(to, "\"}\n");
	answer(client, text);
}

void read_client(struct client *client)
{
	ssize_t length = recv(client->source.fd, client->command + client->length,
			      sizeof(client->command) - 1 - client->length, MSG_DONTWAIT);
	char *end;

	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (client->captured) {
		/* Nothing is to be said during a capture; who hangs up ends it. */
		end_capture(client);
		return;
	}
	if (length <= 0) {
		hang_up(client);
		return;
	}
	client->length += (size_t)length;
	client->command[client->length] = 0;
	end = strchr(client->command, '\n');
	if (end) {
		*end = 0;
		execute(client);
	} else if (client->length == sizeof(client->command) - 1) {
		refuse(client, "the command is longer than %zu", sizeof(client->command) - 2);
	}
}

void accept_client(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	for (int i = 0; i < CLIENTS; i++) {
		struct client *client = &clients[i];

		if (client->source.fd >= 0)
			continue;
		memset(client, 0, sizeof(*client));
		client->source = (struct source){.kind = CLIENT, .fd = fd};
		if (!watch(&client->source))
			hang_up(client);
		return;
	}
	close(fd); /* all are busy: the caller sees the end of file */
}

int listen_at(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(address.sun_path, path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, CLIENTS))
		return -1;
	return fd;
}
