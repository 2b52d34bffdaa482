#include "fake_resolver.h"

static pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER; // of the list
static struct endpoint fake_list[FAKE_MAX];
static size_t fake_count;

sem_t fake_slow;

atomic_int fake_slow_calls;

atomic_int fake_waiting;

static atomic_int fake_lost; // how many of lost.test's look-ups are yet to hang

atomic_int fake_lost_code;

atomic_int fake_list_calls;

atomic_int fake_slow_number;

void fake_clear(void)
{
    (void)pthread_mutex_lock(&fake_lock);
    fake_count = 0;
    (void)pthread_mutex_unlock(&fake_lock);
}

void fake_add(const struct endpoint *endpoint)
{
    (void)pthread_mutex_lock(&fake_lock);
    bool fits = fake_count < FAKE_MAX;
    if (fits)
        fake_list[fake_count++] = *endpoint;
    (void)pthread_mutex_unlock(&fake_lock);
    assert_true(fits);
}

void fake_release(void)
{
    assert_int_equal(sem_post(&fake_slow), 0);
}

void fake_lose(int count)
{
    atomic_store(&fake_lost, count);
}

void fake_await(const atomic_int *calls, int count)
{
    int64_t limit = rig_limit();
    while (atomic_load(calls) < count && deadline_left(limit) > 0)
        (void)poll(NULL, 0, 1);
    assert_int_equal(atomic_load(calls), count);
}

static unsigned descriptors_at_start;

int fake_begin(void **state)
{
    (void)state;
    descriptors_at_start = rig_descriptors();
    return sem_init(&fake_slow, 0, 0);
}

unsigned fake_descriptors_at_start(void)
{
    return descriptors_at_start;
}

void fake_release_to_end(unsigned more)
{
    const unsigned descriptors = descriptors_at_start + more;
    int64_t limit = rig_limit();
    while (rig_descriptors() != descriptors && deadline_left(limit) > 0) {
        int posted = 0;
        if (atomic_load(&fake_waiting) > 0 && sem_getvalue(&fake_slow, &posted) == 0 && posted == 0)
            fake_release();
        (void)poll(NULL, 0, 1);
    }
    assert_int_equal(rig_descriptors(), descriptors);
    (void)sem_trywait(&fake_slow); // one too many
}

static void fake_hang(void)
{
    atomic_fetch_add(&fake_slow_calls, 1);
    atomic_fetch_add(&fake_waiting, 1);
    while (sem_wait(&fake_slow) != 0)
        continue;
    atomic_fetch_sub(&fake_waiting, 1);
}

static struct addrinfo *fake_entry(const struct endpoint *endpoint, struct addrinfo *next)
{
    // One block, as the C library's are: its freeaddrinfo() frees entry by entry.
    struct addrinfo *entry = calloc(1, sizeof *entry + sizeof(struct sockaddr_storage));
    if (entry == NULL)
        abort(); // on a helper thread no test can be failed
    entry->ai_family = endpoint->address.any.sa_family;
    entry->ai_socktype = SOCK_STREAM;
    entry->ai_addrlen = endpoint->length;
    entry->ai_addr = (struct sockaddr *)(entry + 1);
    memcpy(entry->ai_addr, &endpoint->address, endpoint->length);
    entry->ai_next = next;
    return entry;
}

static int fake_answer(const struct endpoint *list, size_t count, int family, struct addrinfo **result)
{
    *result = NULL;
    for (size_t i = count; i > 0; i--)
        if (family == AF_UNSPEC || list[i - 1].address.any.sa_family == family)
            *result = fake_entry(&list[i - 1], *result);
    return *result != NULL ? 0 : EAI_NONAME;
}

static int fake_answer_list(int family, struct addrinfo **result)
{
    (void)pthread_mutex_lock(&fake_lock);
    int code = fake_answer(fake_list, fake_count, family, result);
    (void)pthread_mutex_unlock(&fake_lock);
    return code;
}

static int fake_slow_answer(int family, struct addrinfo **result)
{
    struct endpoint endpoint = rig_endpoint("127.0.0.1:1");
    fake_hang();
    return fake_answer(&endpoint, 1, family, result);
}

// Whether this look-up hangs until it is released.
static bool fake_hangs(const char *name, int family)
{
    if (strcmp(name, "late4.test") == 0)
        return family != AF_INET6;
    if (strcmp(name, "late6.test") == 0)
        return family != AF_INET;
    if (strcmp(name, "whole.test") == 0)
        return family == AF_UNSPEC;
    if (strcmp(name, "lost.test") == 0)
        return family == AF_UNSPEC || atomic_fetch_sub(&fake_lost, 1) > 0;
    return false;
}

static bool fake_has_list(const char *name)
{
    static const char *const names[] = {"list.test", "one.test", "late4.test", "late6.test", "whole.test", "lost.test"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

// Not the library's prototype's attributes, but its meaning.
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
    static const struct {
        const char *name;
        int code;
    } failures[] = {
        {"again.test", EAI_AGAIN},    {"system.test", EAI_SYSTEM}, {"memory.test", EAI_MEMORY},
        {"no-name.test", EAI_NONAME}, {"fail.test", EAI_FAIL},
    };
    for (size_t i = 0; i < sizeof failures / sizeof failures[0]; i++)
        if (strcmp(name, failures[i].name) == 0) {
            errno = EMFILE;
            return failures[i].code;
        }
    if (strncmp(name, "slow", 4) == 0) {
        atomic_store(&fake_slow_number, (int)strtol(name + 4, NULL, 10));
        return fake_slow_answer(hints->ai_family, result);
    }
    if (fake_has_list(name))
        atomic_fetch_add(&fake_list_calls, 1);
    if (strcmp(name, "list.test") == 0 && hints->ai_family != AF_UNSPEC)
        return EAI_AGAIN;
    if (fake_hangs(name, hints->ai_family))
        fake_hang();
    else if (strcmp(name, "lost.test") == 0 && atomic_load(&fake_lost_code) != 0)
        return atomic_load(&fake_lost_code);
    if (fake_has_list(name))
        return fake_answer_list(hints->ai_family, result);
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    return real(name, service, hints, result);
}
