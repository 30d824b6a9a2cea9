/* An independent peer, written from docs/protocol.md alone: one session as source or sink, initiator or
 * responder, over a stream or datagrams, which loses some of what it sends and gets on purpose, and recovers.
 *
 *   peer source|sink initiator|responder stream|datagrams LOSS COUNT [PATH]
 *
 * The socket is descriptor 0; with PATH an initiator connects to that Unix socket itself, and as often again as
 * it drops the connection in the middle. LOSS is in percent. A source sends COUNT frames of its own making; a
 * sink writes the DATA payloads to descriptor 1. The exit status is 0 when the session has ended as it should.
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { KEEPALIVE, EVENT, DATA, HELLO, WELCOME, ACK, SCHEMA, LOST, TABLE, REQUEST, REPLY, ERROR, BYE };
enum { MAX_FRAMES = 4096, LIMIT = 60 };

static int is_source, is_initiator, datagrams, loss, count, fd;
static const char *path;
static unsigned seed = 12345;
static double started, last_sent, last_heard;
static int known, established, finished;
static uint8_t token[16], cookie[64];
static size_t cookie_size;
static uint32_t nonce, peer_window;
static double hello_at, hello_wait = 1.0;

/* A source's: payloads [first, end), BYE is number `end`. */
static struct {
    uint8_t *bytes;
    size_t size;
    double sent; /* 0: not sent, or missing */
    int tries, got;
} out[MAX_FRAMES];
static uint32_t first_number = 0xfffffff0u, base, cursor, end;
static double rto = 1.0, srtt = -1, rttvar, timer;
static uint32_t hole;
static int duplicates;

/* A sink's. */
static struct {
    uint8_t *bytes;
    size_t size;
} held[MAX_FRAMES];
static uint32_t expected, bye_number, window = 20000;
static int begun, bye_seen, ack_due;

static void die(const char *why)
{
    fprintf(stderr, "peer: %s\n", why);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int lose(void)
{
    seed = seed * 1103515245u + 12345u;
    return (int)((seed >> 16) % 100) < loss;
}

static uint16_t get16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static uint32_t get32(const uint8_t *p) { return (uint32_t)get16(p) << 16 | get16(p + 2); }
static void put16(uint8_t *p, unsigned v) { p[0] = (uint8_t)(v >> 8), p[1] = (uint8_t)v; }
static void put32(uint8_t *p, uint32_t v) { put16(p, v >> 16), put16(p + 2, v & 0xffff); }

/* RFC 1982: steps from a forward to b, negative where b is before a */
static int32_t steps(uint32_t a, uint32_t b) { return (int32_t)(b - a); }

static unsigned checksum(const uint8_t *p, size_t n)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
}

/* ---- CBOR, as much as section 4 allows */

struct writer {
    uint8_t bytes[4096];
    size_t size;
};

static void head(struct writer *w, int major, uint32_t value)
{
    uint8_t *p = w->bytes + w->size;
    if (value < 24)
        p[0] = (uint8_t)(major << 5 | value), w->size += 1;
    else
        p[0] = (uint8_t)(major << 5 | 26), put32(p + 1, value), w->size += 5;
}

static void string(struct writer *w, int major, const void *bytes, size_t size)
{
    head(w, major, (uint32_t)size);
    memcpy(w->bytes + w->size, bytes, size);
    w->size += size;
}

static void text(struct writer *w, const char *s) { string(w, 3, s, strlen(s)); }

struct item {
    int major, info;
    uint64_t value; /* the argument: a number, a length, a count */
    const uint8_t *bytes; /* of a string */
};

/* Read the item at p, with all that it holds; gives where it ends. Indefinite lengths included. */
static const uint8_t *item(const uint8_t *p, const uint8_t *stop, struct item *it, int depth)
{
    struct item inner;
    if (p >= stop || depth > 16)
        die("bad CBOR");
    it->major = *p >> 5, it->info = *p & 31, p++;
    it->value = (uint64_t)it->info;
    if (it->info >= 24 && it->info <= 27) {
        int width = 1 << (it->info - 24);
        for (it->value = 0; width--; p++)
            it->value = it->value << 8 | *p;
    }
    it->bytes = p;
    if (it->major == 2 || it->major == 3) {
        if (it->info == 31)
            die("a string in pieces: not for me");
        if (it->value > (uint64_t)(stop - p))
            die("bad CBOR string");
        return p + it->value;
    }
    if (it->major == 4 || it->major == 5) {
        uint64_t left = it->info == 31 ? UINT64_MAX : it->value * (it->major - 3);
        for (; left && !(it->info == 31 && p < stop && *p == 0xff); left--)
            p = item(p, stop, &inner, depth + 1);
        return it->info == 31 ? p + 1 : p;
    }
    return p;
}

/* The value of `key` in a map; 0 where it is missing. */
static int find(const uint8_t *map, size_t size, const char *key, struct item *value)
{
    struct item whole, name;
    const uint8_t *stop = map + size, *p;
    item(map, stop, &whole, 0);
    if (whole.major != 5)
        die("not a map");
    p = whole.bytes;
    for (uint64_t i = 0; whole.info == 31 ? *p != 0xff : i < whole.value; i++) {
        p = item(p, stop, &name, 1);
        p = item(p, stop, value, 1);
        if (name.major == 3 && name.value == strlen(key) && !memcmp(name.bytes, key, strlen(key)))
            return 1;
    }
    return 0;
}

static int is_true(const uint8_t *map, size_t size, const char *key)
{
    struct item value;
    return find(map, size, key, &value) && value.major == 7 && value.info == 21;
}

/* ---- frames */

static void transmit(int type, uint32_t id, const void *payload, size_t size, int lossy)
{
    static uint8_t frame[65536 + 16];
    size_t length = 8 + size, pad = size & 1;
    memcpy(frame + 8, payload, size);
    if (datagrams) {
        if (pad)
            frame[length++] = 0;
        length += 2;
    }
    frame[0] = (uint8_t)(1 << 4 | type);
    frame[1] = (uint8_t)(datagrams ? (pad ? 3 : 1) : 0);
    put16(frame + 2, (unsigned)length);
    put32(frame + 4, id);
    if (datagrams)
        put16(frame + length - 2, checksum(frame, length - 2));
    last_sent = now();
    if (datagrams && lossy && lose())
        return;
    for (size_t at = 0; at < length;) {
        ssize_t n = send(fd, frame + at, length - at, MSG_NOSIGNAL);
        if (n < 0 && datagrams && (errno == ECONNREFUSED || errno == ENOBUFS))
            return;
        if (n < 0)
            die("send failed");
        at += (size_t)n;
    }
}

static void hello(int type)
{
    struct writer w = {.size = 0};
    uint32_t next = is_source ? base : expected + (uint32_t)finished;
    head(&w, 5, type == HELLO ? 9 : 7);
    text(&w, "token"), string(&w, 2, token, 16);
    text(&w, "nonce"), head(&w, 0, nonce);
    text(&w, "role"), text(&w, is_source ? "source" : "sink");
    text(&w, "resume"), w.bytes[w.size++] = known ? 0xf5 : 0xf4;
    text(&w, "next"), head(&w, 0, next);
    text(&w, "window"), head(&w, 0, is_source ? 0 : window);
    text(&w, "about"), head(&w, 5, 1), text(&w, "tool"), text(&w, "peer.c");
    if (type == HELLO) {
        static const uint8_t zeros[512];
        text(&w, "versions"), head(&w, 4, 1), head(&w, 0, 1);
        if (cookie_size)
            text(&w, "cookie"), string(&w, 2, cookie, cookie_size);
        else
            text(&w, "pad"), string(&w, 2, zeros, datagrams ? 512 : 0);
    }
    transmit(type, 0, w.bytes, w.size, 1);
}

/* ---- the source's half */

static void release(uint32_t next)
{
    for (; steps(base, next) > 0; base++) {
        int at = (int)(base - first_number);
        if (out[at].tries == 1 && !out[at].got) { /* Karn */
            double r = now() - out[at].sent;
            if (srtt < 0)
                srtt = r, rttvar = r / 2;
            else {
                double off = srtt > r ? srtt - r : r - srtt;
                rttvar += (off - rttvar) / 4, srtt += (r - srtt) / 8;
            }
            rto = srtt + (4 * rttvar > 0.001 ? 4 * rttvar : 0.001);
            rto = rto < 0.2 ? 0.2 : rto > 60 ? 60 : rto;
        }
        timer = now() + rto;
    }
    if (steps(cursor, base) > 0)
        cursor = base;
    if (steps(base, end + 1) == 0)
        finished = 1;
}

static void acked(uint32_t id, const uint8_t *payload, size_t size)
{
    uint32_t missing = id;
    int above = 0;
    if (size < 4 || (size - 4) % 8)
        die("bad ACK");
    if (steps(id, cursor) < 0)
        die("ACK of what was never sent");
    if (steps(base, id) < 0)
        return;
    peer_window = get32(payload);
    release(id);
    for (size_t at = 4; at < size; at += 8) {
        uint32_t from = get32(payload + at), to = get32(payload + at + 4);
        if (at == 4 && from == id)
            missing = to + 1;
        else
            above = 1;
        for (uint32_t n = from; steps(n, to) >= 0; n++)
            if (steps(base, n) >= 0 && steps(n, cursor) > 0 && !out[n - first_number].got) {
                out[n - first_number].got = 1;
                timer = now() + rto;
            }
    }
    duplicates = missing == hole && above ? duplicates + 1 : 0;
    hole = missing;
    if (duplicates == 3 && steps(hole, cursor) > 0)
        out[hole - first_number].sent = 0; /* fast retransmit */
}

static void push(void)
{
    uint32_t outstanding = 0;
    for (uint32_t n = base; steps(n, end) >= 0; n++) {
        int at = (int)(n - first_number);
        int is_bye = n == end;
        outstanding += (uint32_t)out[at].size;
        if (n != base && outstanding > peer_window)
            break;
        if (peer_window == 0)
            break;
        if (out[at].sent != 0 || out[at].got)
            continue;
        if (!datagrams && n != cursor)
            continue;
        out[at].sent = now(), out[at].tries++;
        if (timer == 0)
            timer = now() + rto;
        if (steps(n, cursor) == 0)
            cursor = n + 1;
        if (is_bye)
            transmit(BYE, n, "\xa1\x66reason\x64" "done", 13, 1);
        else
            transmit(DATA, n, out[at].bytes, out[at].size, 1);
    }
}

static void again(uint32_t next)
{
    release(next);
    cursor = base;
    for (uint32_t n = base; steps(n, end) >= 0; n++)
        out[n - first_number].sent = 0, out[n - first_number].got = 0;
}

/* ---- the sink's half */

static void acknowledge(void)
{
    uint8_t payload[4 + 8 * 32];
    size_t size = 4;
    uint32_t n = expected;
    put32(payload, window);
    for (uint32_t i = 0; i < 512 && size < sizeof payload; i++, n++) {
        if (!held[n % MAX_FRAMES].bytes)
            continue;
        put32(payload + size, n);
        while (held[(n + 1) % MAX_FRAMES].bytes)
            n++;
        put32(payload + size + 4, n);
        size += 8;
    }
    transmit(ACK, expected + (uint32_t)finished, payload, size, 1);
    ack_due = 0;
}

static void taken(uint32_t id, const uint8_t *payload, size_t size)
{
    int32_t ahead = steps(expected, id);
    if (ahead < 0 || ahead >= 512 || (bye_seen && steps(bye_number, id) >= 0)) {
        ack_due = 2;
        return;
    }
    if (!held[id % MAX_FRAMES].bytes) {
        held[id % MAX_FRAMES].bytes = memcpy(malloc(size + 1), payload, size);
        held[id % MAX_FRAMES].size = size;
    }
    ack_due += ahead ? 2 : 1;
    while (held[expected % MAX_FRAMES].bytes) { /* stored as soon as it is the next */
        int at = (int)(expected % MAX_FRAMES);
        if (write(1, held[at].bytes, held[at].size) != (ssize_t)held[at].size)
            die("write failed");
        free(held[at].bytes);
        held[at].bytes = NULL;
        expected++;
    }
}

/* ---- both */

static void begin(const uint8_t *map, size_t size)
{
    struct item next = {.value = 0}, theirs = {.value = 0};
    find(map, size, "next", &next);
    find(map, size, "window", &theirs);
    if (is_source) {
        peer_window = (uint32_t)theirs.value;
        again(is_true(map, size, "resume") ? (uint32_t)next.value : base);
    } else if (!begun) {
        begun = 1;
        expected = (uint32_t)next.value;
    }
    known = established = 1;
}

static void received(int type, uint32_t id, const uint8_t *payload, size_t size)
{
    struct item value;
    last_heard = now();
    if (type == DATA && !is_source && (established || finished)) {
        if (!datagrams || !lose())
            taken(id, payload, size);
    } else if (type == ACK && is_source && established) {
        acked(id, payload, size);
    } else if (type == KEEPALIVE) {
        ack_due = is_source ? 0 : 2;
    } else if (type == BYE && !is_source && (established || finished)) {
        bye_seen = 1, bye_number = id, ack_due = 2;
    } else if (type == WELCOME && is_initiator && !established) {
        if (!find(payload, size, "token", &value) || memcmp(value.bytes, token, 16))
            return;
        if (!find(payload, size, "nonce", &value) || value.value != nonce)
            return;
        if (find(payload, size, "refused", &value) || is_true(payload, size, "unknown"))
            die("refused");
        if (find(payload, size, "cookie", &value)) {
            memcpy(cookie, value.bytes, cookie_size = (size_t)value.value);
            hello(HELLO);
        } else
            begin(payload, size);
    } else if (type == HELLO && !is_initiator) {
        if (!find(payload, size, "nonce", &value))
            die("HELLO without nonce");
        nonce = (uint32_t)value.value;
        find(payload, size, "token", &value);
        memcpy(token, value.bytes, 16);
        if (datagrams && !find(payload, size, "cookie", &value)) { /* the address is not proven */
            struct writer w = {.size = 0};
            head(&w, 5, 4);
            text(&w, "token"), string(&w, 2, token, 16);
            text(&w, "nonce"), head(&w, 0, nonce);
            text(&w, "role"), text(&w, is_source ? "source" : "sink");
            text(&w, "cookie"), string(&w, 2, "a cookie", 8);
            transmit(WELCOME, 0, w.bytes, w.size, 1);
            return;
        }
        hello(WELCOME);
        begin(payload, size);
    } else if (type == ERROR) {
        find(payload, size, "message", &value);
        fprintf(stderr, "peer: ERROR %.*s\n", (int)value.value, (const char *)value.bytes);
        exit(2);
    }
}

static uint8_t input[1 << 17];
static size_t filled;

static void incoming(void)
{
    ssize_t n = recv(fd, input + filled, sizeof input - filled, 0);
    if (n < 0 && datagrams)
        return;
    if (n <= 0) {
        if (finished)
            exit(0);
        die("the stream ended");
    }
    filled += (size_t)n;
    for (;;) {
        size_t length = get16(input + 2), payload;
        if (filled < 8 || length < 8 || length > filled)
            break;
        payload = length - 8;
        if (datagrams) {
            if (!(input[1] & 1) || length != filled || checksum(input, length - 2) != get16(input + length - 2))
                break;
            payload -= input[1] & 2 ? 3 : 2;
        }
        if (input[0] >> 4 == 1)
            received(input[0] & 15, get32(input + 4), input + 8, payload);
        memmove(input, input + length, filled -= length);
    }
    if (datagrams)
        filled = 0;
}

static void dial(void)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    strncpy(to.sun_path, path, sizeof to.sun_path - 1);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to))
        die("connect failed");
    established = 0, filled = 0, nonce++;
    hello(HELLO);
}

static void make_payloads(void)
{
    base = cursor = first_number, end = first_number + (uint32_t)count;
    for (int i = 0; i < count; i++) { /* EVENT frames of probe 1, filled with their number */
        size_t size = 24 + (size_t)(i % 37) * 8;
        out[i].bytes = malloc(size);
        out[i].size = size;
        memset(out[i].bytes, i & 255, size);
        out[i].bytes[0] = 0x11, out[i].bytes[1] = 0;
        put16(out[i].bytes + 2, (unsigned)size), put32(out[i].bytes + 4, 1);
        put32(out[i].bytes + 8, (uint32_t)i);
    }
}

int main(int argc, char **argv)
{
    double quit = 0;
    int dropped = 0;
    if (argc < 6)
        die("usage");
    is_source = !strcmp(argv[1], "source"), is_initiator = !strcmp(argv[2], "initiator");
    datagrams = !strcmp(argv[3], "datagrams"), loss = atoi(argv[4]), count = atoi(argv[5]);
    path = argc > 6 ? argv[6] : NULL;
    started = last_heard = last_sent = now();
    nonce = 1000, seed += (unsigned)getpid();
    if (is_source)
        make_payloads();
    for (int i = 0; is_initiator && i < 16; i++)
        token[i] = (uint8_t)(getpid() >> (i % 4) * 8 ^ i * 37);
    if (path)
        window = 1500, dial(); /* so that much is still to come when the connection drops */
    else if (is_initiator)
        hello(HELLO);
    hello_at = now() + hello_wait;
    while (now() - started < LIMIT) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 20) > 0)
            incoming();
        if (is_initiator && !established && !finished && datagrams && now() > hello_at) {
            hello(HELLO);
            hello_at = now() + (hello_wait *= 2);
        }
        if (established && is_source && !finished) {
            if (datagrams && timer > 0 && now() > timer) { /* all that has not come is sent again */
                int missing = 0;
                for (uint32_t n = base; steps(n, cursor) > 0; n++)
                    if (!out[n - first_number].got)
                        out[n - first_number].sent = 0, missing = 1;
                if (!missing)
                    transmit(KEEPALIVE, 0, "", 0, 1);
                rto = rto * 2 > 60 ? 60 : rto * 2;
                timer = now() + rto;
            }
            push();
        }
        if (!is_source && bye_seen && expected == bye_number && !finished)
            finished = 1, ack_due = 2;
        if (ack_due && (ack_due > 1 || datagrams || !(count % 2)) && !is_source)
            acknowledge();
        if (established && now() - last_sent > 10)
            transmit(KEEPALIVE, 0, "", 0, 0);
        if (established && now() - last_heard > 30)
            die("silence");
        if (path && known && dropped < 3 && !finished && established &&
            (is_source ? steps(first_number, base) : (int32_t)(expected & 0xffff)) > (dropped + 1) * count / 5) {
            close(fd); /* in the middle: whatever was under way is lost */
            dropped++;
            dial();
        }
        if (finished && quit == 0)
            quit = now() + (datagrams && !is_source ? 1.5 : 0); /* who is done answers for a while */
        if (quit > 0 && now() > quit)
            return 0;
    }
    die("it took too long");
}
