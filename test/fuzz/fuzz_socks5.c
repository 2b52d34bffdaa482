// Any bytes as a SOCKS5 server's answers: the first byte says to which question. A reader that reads just what is asked
// for ends, within bounds, and never has more than the answer.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/wire/socks5.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds)
{
    if (!holds)
        abort();
}

static enum socks5_state parse(unsigned question, const uint8_t *bytes, size_t length, struct socks5_answer *answer)
{
    // Of a block of just this size, so that the sanitizer sees a read beyond it.
    uint8_t *copy = malloc(length > 0 ? length : 1);
    check(copy != NULL);
    memcpy(copy, bytes, length);
    enum socks5_state state = question == 0   ? socks5_parse_choice(copy, length, false, answer)
                              : question == 1 ? socks5_parse_choice(copy, length, true, answer)
                              : question == 2 ? socks5_parse_verdict(copy, length, answer)
                                              : socks5_parse_reply(copy, length, answer);
    free(copy);
    check((state == SOCKS5_COMPLETE) == (answer->length > 0));
    check((state == SOCKS5_NEEDS_MORE) == (answer->needed > 0));
    check((state > SOCKS5_NEEDS_MORE) == (answer->reason != NULL));
    check(answer->length <= length && answer->needed <= SOCKS5_ANSWER_MAX);
    check(answer->needed == 0 || answer->needed > length);
    return state;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    unsigned question = data[0] % 4;
    data++;
    size--;
    struct socks5_answer whole;
    struct socks5_answer answer;
    enum socks5_state state = parse(question, data, size, &whole);
    size_t length = 0;
    enum socks5_state now = parse(question, data, 0, &answer);
    while (now == SOCKS5_NEEDS_MORE && answer.needed <= size) {
        length = answer.needed;
        now = parse(question, data, length, &answer);
    }
    check(now == state || (now == SOCKS5_NEEDS_MORE && state > SOCKS5_NEEDS_MORE));
    check(now != SOCKS5_COMPLETE || answer.length == length);
    return 0;
}
