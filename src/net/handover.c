// The half of the process that hands over.

#include "bitflow/net/handover.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/mutex.h"
#include "handover_table.h"

struct note {
    int fd;
    bool is_given;
    struct handover_mark mark;
};

static struct mutex lock = MUTEX_INIT;
static struct note *notes GUARDED_BY(lock);
static size_t note_count GUARDED_BY(lock);
static size_t note_room GUARDED_BY(lock);

static struct note *find(int fd) REQUIRES(lock)
{
    for (size_t i = 0; i < note_count; i++)
        if (notes[i].fd == fd)
            return &notes[i];
    return NULL;
}

bool handover_note(int fd, const struct handover_mark *mark, struct error *error)
{
    mutex_lock(&lock);
    if (note_count == note_room) {
        size_t room = note_room == 0 ? 8 : 2 * note_room;
        struct note *grown = realloc(notes, room * sizeof *grown);
        if (grown != NULL) {
            notes = grown;
            note_room = room;
        }
    }
    bool has_room = note_count < note_room;
    if (has_room)
        notes[note_count++] = (struct note){.fd = fd, .mark = *mark};
    mutex_unlock(&lock);
    if (!has_room)
        error_set_errno(error, ENOMEM, "cannot keep track of a listening socket");
    return has_room;
}

void handover_forget(int fd)
{
    mutex_lock(&lock);
    struct note *found = find(fd);
    if (found != NULL)
        *found = notes[--note_count];
    if (note_count == 0) {
        free(notes);
        notes = NULL;
        note_room = 0;
    }
    mutex_unlock(&lock);
}

bool handover_is_given(int fd)
{
    mutex_lock(&lock);
    const struct note *found = find(fd);
    bool is_given = found != NULL && found->is_given;
    mutex_unlock(&lock);
    return is_given;
}

static size_t table_size(size_t count)
{
    return sizeof(struct handover_table) + count * sizeof(struct handover_record);
}

// Returns the descriptor of its memory, or -1 with errno.
static int make_table(struct handover_offer *offer, size_t count)
{
    size_t size = table_size(count);
    int memory = memfd_create("bitflow-handover", MFD_CLOEXEC);
    void *mapped = MAP_FAILED;
    if (memory >= 0 && ftruncate(memory, (off_t)size) == 0)
        mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (mapped == MAP_FAILED) {
        int reason = errno;
        if (memory >= 0)
            (void)close(memory);
        errno = reason;
        return -1;
    }
    offer->table = mapped;
    offer->size = size;
    *offer->table = (struct handover_table){
        .magic = HANDOVER_MAGIC, .record_size = sizeof(struct handover_record), .count = (uint32_t)count};
    return memory;
}

// Only the main thread opens and closes listeners, so what is listed here stays.
static void list_notes(struct handover_offer *offer) REQUIRES(lock)
{
    for (size_t i = 0; i < note_count; i++) {
        const struct handover_mark *mark = &notes[i].mark;
        offer->sockets[i] = notes[i].fd;
        offer->table->records[i] = (struct handover_record){
            .is_any_port = mark->is_any_port, .device = (uint64_t)mark->device, .inode = (uint64_t)mark->inode};
    }
}

static bool send_descriptors(int channel, const int *descriptors, size_t count)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(HANDOVER_MESSAGE_SOCKETS * sizeof(int))];
    char byte = 's';
    struct iovec content = {.iov_base = &byte, .iov_len = 1};
    size_t length = count * sizeof(int);
    struct msghdr message = {
        .msg_iov = &content, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(length)};
    memset(control, 0, sizeof control);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(length);
    memcpy(CMSG_DATA(head), descriptors, length);
    return sendmsg(channel, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == 1;
}

static bool send_all(int channel, int memory, const struct handover_offer *offer)
{
    size_t count = offer->table->count;
    bool good = send_descriptors(channel, &memory, 1);
    for (size_t sent = 0; good && sent < count; sent += HANDOVER_MESSAGE_SOCKETS) {
        size_t left = count - sent;
        good = send_descriptors(channel, offer->sockets + sent,
                                left < HANDOVER_MESSAGE_SOCKETS ? left : HANDOVER_MESSAGE_SOCKETS);
    }
    return good;
}

bool handover_send(int channel, struct handover_offer *offer, struct error *error)
{
    *offer = (struct handover_offer){.table = NULL};
    mutex_lock(&lock);
    size_t count = note_count;
    offer->sockets = calloc(count + 1, sizeof *offer->sockets);
    int memory = -1;
    if (count > HANDOVER_SOCKETS_MAX)
        errno = E2BIG;
    else if (offer->sockets != NULL)
        memory = make_table(offer, count);
    if (memory >= 0)
        list_notes(offer);
    mutex_unlock(&lock);
    bool good = memory >= 0 && send_all(channel, memory, offer);
    if (!good) {
        error_set_errno(error, errno, "cannot hand over %zu listening sockets", count);
        handover_settle(offer, false);
    }
    if (memory >= 0)
        (void)close(memory);
    return good;
}

void handover_settle(struct handover_offer *offer, bool is_accepted)
{
    mutex_lock(&lock);
    // Not by the table's own count: the other process can write there.
    size_t count = offer->table == NULL ? 0 : (offer->size - sizeof *offer->table) / sizeof(struct handover_record);
    for (size_t i = 0; is_accepted && i < count; i++) {
        struct note *found = find(offer->sockets[i]);
        if (found != NULL && offer->table->records[i].is_taken != 0)
            found->is_given = true;
    }
    mutex_unlock(&lock);
    if (offer->table != NULL)
        (void)munmap(offer->table, offer->size);
    free(offer->sockets);
    *offer = (struct handover_offer){.table = NULL};
}
