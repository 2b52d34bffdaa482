#include "bitflow/wire/early_data.h"

#include "bitflow/wire/record_follower.h"

enum { MESSAGE_CLIENT_HELLO = 1, MESSAGE_SERVER_HELLO = 2, RECORD_HANDSHAKE = 22 };
enum { EXTENSION_SIGNATURE_ALGORITHMS = 13, EXTENSION_EARLY_DATA = 42 };

// ---- the ClientHello

// In the order in which they come; the last two as often as there are extensions.
enum {
    FIELD_TYPE,
    FIELD_MESSAGE_LENGTH,
    FIELD_VERSION_AND_RANDOM,
    FIELD_SESSION_ID,
    FIELD_SUITES,
    FIELD_COMPRESSIONS,
    FIELD_EXTENSIONS,
    FIELD_EXTENSION_TYPE,
    FIELD_EXTENSION,
};

// A field is a number, and where that is a length, as many bytes behind it.
static const struct {
    uint8_t number_size; // bytes
    bool is_length;      // of what is passed over
} fields[] = {
    [FIELD_TYPE] = {1, false},       [FIELD_MESSAGE_LENGTH] = {3, false}, [FIELD_VERSION_AND_RANDOM] = {0, false},
    [FIELD_SESSION_ID] = {1, true},  [FIELD_SUITES] = {2, true},          [FIELD_COMPRESSIONS] = {1, true},
    [FIELD_EXTENSIONS] = {2, false}, [FIELD_EXTENSION_TYPE] = {2, false}, [FIELD_EXTENSION] = {2, true},
};

static void note_extension(struct early_data_offer *offer, size_t type)
{
    offer->extension = type;
    if (type == EXTENSION_SIGNATURE_ALGORITHMS)
        offer->has_signature_algorithms = true;
}

static void go_on(struct early_data_offer *offer)
{
    offer->field = offer->field == FIELD_EXTENSION ? FIELD_EXTENSION_TYPE : (uint8_t)(offer->field + 1);
    offer->number = 0;
    offer->number_bytes = 0;
    if (offer->field == FIELD_VERSION_AND_RANDOM) {
        offer->left = 2 + 32;
        offer->is_over = offer->left > offer->message_left;
    }
}

// Whether the number that a field begins with may be what it is.
static bool is_good_number(const struct early_data_offer *offer)
{
    size_t number = offer->number;
    switch (offer->field) {
    case FIELD_TYPE:
        return number == MESSAGE_CLIENT_HELLO;
    case FIELD_SESSION_ID:
        return number <= 32;
    case FIELD_SUITES:
        return number > 0 && number % 2 == 0;
    case FIELD_COMPRESSIONS:
        return number > 0;
    case FIELD_EXTENSIONS:
        return number == offer->message_left;
    case FIELD_EXTENSION:
        return offer->extension != EXTENSION_EARLY_DATA || (number == 0 && !offer->is_seen); // a client's is empty
    default:
        return true;
    }
}

// The number that the field at hand begins with is there. False: the message is not what is looked for.
static bool take_number(struct early_data_offer *offer)
{
    if (!is_good_number(offer))
        return false;
    if (offer->field == FIELD_MESSAGE_LENGTH)
        offer->message_left = offer->number;
    else if (offer->field == FIELD_EXTENSION_TYPE)
        note_extension(offer, offer->number);
    else if (fields[offer->field].is_length)
        offer->left = offer->number;
    if (offer->field == FIELD_EXTENSION && offer->extension == EXTENSION_EARLY_DATA)
        offer->is_seen = true;
    return offer->left <= offer->message_left;
}

// Whether the message may end behind the field at hand.
static bool is_end(const struct early_data_offer *offer)
{
    return offer->field == FIELD_COMPRESSIONS || offer->field == FIELD_EXTENSION || offer->field == FIELD_EXTENSIONS;
}

// The field at hand has come wholly.
static void end_field(struct early_data_offer *offer)
{
    if (offer->field >= FIELD_MESSAGE_LENGTH && offer->message_left == 0) {
        offer->is_over = true;
        offer->is_whole = is_end(offer);
        offer->is_made = offer->is_seen && offer->is_whole;
    }
    go_on(offer);
}

static void take_number_byte(struct early_data_offer *offer, uint8_t byte)
{
    bool is_inside = offer->field > FIELD_MESSAGE_LENGTH;
    offer->number = offer->number << 8 | byte;
    offer->number_bytes++;
    if (is_inside)
        offer->message_left--;
    if (offer->number_bytes == fields[offer->field].number_size)
        offer->is_over = !take_number(offer);
    else
        offer->is_over = is_inside && offer->message_left == 0;
}

// Takes bytes of the field at hand; how many.
static size_t take_field(struct early_data_offer *offer, const uint8_t *bytes, size_t length)
{
    if (offer->number_bytes < fields[offer->field].number_size) {
        take_number_byte(offer, *bytes);
        return 1;
    }
    size_t taken = length < offer->left ? length : offer->left;
    offer->left -= taken;
    offer->message_left -= taken;
    return taken;
}

// Passes over extensions that have come wholly, as nearly all of a hello's do, but for the last one and early data's;
// how many bytes.
static size_t pass_extensions(struct early_data_offer *offer, const uint8_t *bytes, size_t length)
{
    size_t at = 0;
    while (length - at >= 4) {
        size_t type = (size_t)bytes[at] << 8 | bytes[at + 1];
        size_t size = 4 + ((size_t)bytes[at + 2] << 8 | bytes[at + 3]);
        if (type == EXTENSION_EARLY_DATA || size > length - at || size >= offer->message_left)
            break;
        note_extension(offer, type);
        offer->message_left -= size;
        at += size;
    }
    return at;
}

void early_data_offer_take(struct early_data_offer *offer, const uint8_t *bytes, size_t length)
{
    while (length > 0 && !offer->is_over) {
        size_t taken = 0;
        if (offer->field == FIELD_EXTENSION_TYPE && offer->number_bytes == 0)
            taken = pass_extensions(offer, bytes, length);
        if (taken == 0)
            taken = take_field(offer, bytes, length);
        bytes += taken;
        length -= taken;
        if (!offer->is_over && offer->number_bytes == fields[offer->field].number_size && offer->left == 0)
            end_field(offer);
    }
}

// ---- what answers it

enum early_data_answer early_data_answer_of(const uint8_t *record, size_t length, uint16_t *suite)
{
    const uint8_t *message = record + RECORD_FOLLOWER_HEADER;
    if (length < RECORD_FOLLOWER_HEADER + SERVER_HELLO_BEGINNING + 1 || record[0] != RECORD_HANDSHAKE ||
        message[0] != MESSAGE_SERVER_HELLO)
        return EARLY_DATA_UNANSWERED;
    if (server_hello_is_retry_request(message))
        return EARLY_DATA_RETRY;
    size_t at =
        RECORD_FOLLOWER_HEADER + SERVER_HELLO_BEGINNING + 1 + record[RECORD_FOLLOWER_HEADER + SERVER_HELLO_BEGINNING];
    if (at + 2 > length)
        return EARLY_DATA_UNANSWERED;
    *suite = (uint16_t)(record[at] << 8 | record[at + 1]);
    return EARLY_DATA_HELLO;
}
