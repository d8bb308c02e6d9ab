/* What is counted in documents. */

#include <math.h>

#include "text_room.h"

enum { SHORT_LINE = 30, MAX_GRAM = 10 };

/* The order of treadle.native.text.COUNTS. */
enum {
    CHARS, TOKENS, TOKEN_CHARS, ALPHA_CHARS, DIGIT_CHARS, PUNCTUATION_CHARS, CURLY_BRACES, BRACKETED_CHARS, HASH_CHARS, HASH_RUNS,
    ELLIPSIS_RUNS, SENTENCES, LINES, SHORT_LINES, ENDED_LINES, ELLIPSIS_LINES, BULLET_LINES, READ_MORE_LINES, DUPLICATE_LINES,
    DUPLICATE_LINE_CHARS, PARAGRAPHS, DUPLICATE_PARAGRAPHS, DUPLICATE_PARAGRAPH_CHARS, WORD_COUNT, WORD_CHARS, ALPHA_WORDS,
    CAPITAL_WORDS, STOP_WORDS, DISTINCT_STOP_WORDS, UNIQUE_TOKENS, TOP_2_GRAM, DUPLICATE_5_GRAM = TOP_2_GRAM + 3, NEWLINES = DUPLICATE_5_GRAM + 6,
    NUM_COUNTS
};

static const uint32_t *const READ_MORE[] = {U"read more", U"readmore", U"展开", U"更多", U"。。。", 0};
static const uint32_t *const ELLIPSES[] = {U"...", U"…", U"。。。", 0};

/* Gives equal keys equal numbers, counted from 0 in the order of their first places; `is_candidate` may exclude places. */
static int64_t number(Room *room, const uint64_t *keys, const uint8_t *is_candidate, int64_t n) {
    int64_t wanted = n, found = 0, slots = 16;
    if (is_candidate) {
        wanted = 0;
        for (int64_t i = 0; i < n; i++) wanted += is_candidate[i];
    }
    int shift = 60;
    while (slots < 2 * wanted) slots *= 2, shift--;
    memset(room->slot, 0xff, (size_t)slots * 4);
    for (int64_t i = 0; i < n; i++) {
        if (is_candidate && !is_candidate[i]) continue;
        uint64_t key = keys[i], place = key * BASE >> shift;
        while (room->slot[place] != UINT32_MAX && keys[room->first[room->slot[place]]] != key) place = (place + 1) & (uint64_t)(slots - 1);
        if (room->slot[place] == UINT32_MAX) {
            room->slot[place] = (uint32_t)found, room->first[found] = (uint32_t)i, room->count[found] = 0;
            found++;
        }
        room->which[i] = room->slot[place];
        room->count[room->slot[place]]++;
    }
    return found;
}

static void count_characters(const Characters *table, const uint32_t *p, int64_t n, int64_t *counts) {
    int64_t sentence = 0, bracket = -1;
    uint32_t before = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t c = p[i];
        uint16_t kind = class_of(table, c);
        counts[ALPHA_CHARS] += (kind & ALPHA) != 0, counts[DIGIT_CHARS] += (kind & DIGIT) != 0;
        counts[PUNCTUATION_CHARS] += (kind & PUNCTUATION) != 0;
        sentence |= kind & (ALPHA | DIGIT);
        if (kind & SENTENCE_END) counts[SENTENCES] += sentence != 0, sentence = 0;
        if (kind & PUNCTUATION || c > 0x7f) {
            if (c == '{' || c == '}') counts[CURLY_BRACES]++;
            if (c == '#') counts[HASH_CHARS]++, counts[HASH_RUNS] += before != '#';
            if (c == 0x2026) counts[ELLIPSIS_RUNS] += before != 0x2026;
            if (c == '.' && before == '.' && i > 1 && p[i - 2] == '.') counts[ELLIPSIS_RUNS] += i < 3 || p[i - 3] != '.';
            if (c == 0x3010 && bracket < 0) bracket = i;
            if (c == 0x3011 && bracket >= 0) counts[BRACKETED_CHARS] += i - bracket - 1, bracket = -1;
        }
        counts[NEWLINES] += c == '\n';
        before = c;
    }
    counts[SENTENCES] += sentence != 0;
    counts[CHARS] = n;
}

/* The words between white space: their hashes and lengths, and what is said of each of them. */
static int64_t count_words(const Characters *table, const StopWords *stop, const uint32_t *p, int64_t n, Room *room, int64_t *counts) {
    int64_t words = 0, seen = 0;
    for (int64_t i = 0; i < n;) {
        while (i < n && class_of(table, p[i]) & SPACE) i++;
        if (i == n) break;
        int64_t start = i, letters = 0, capitals = 0;
        uint64_t hash = FNV, plain = FNV, inner = FNV;
        for (uint16_t kind; i < n && !((kind = class_of(table, p[i])) & SPACE); i++) {
            hash = (hash ^ p[i]) * PRIME;
            letters += (kind & ALPHA) != 0, capitals += (kind & UPPER) != 0;
            if (kind & IN_WORD || plain != FNV) inner = (inner ^ lower_of(table, p[i])) * PRIME;
            if (kind & IN_WORD) plain = inner; /* what stands between the punctuation at both ends */
        }
        room->hash[words] = mix(hash), room->length[words] = (uint32_t)(i - start);
        words++, counts[WORD_CHARS] += i - start;
        counts[ALPHA_WORDS] += letters > 0, counts[CAPITAL_WORDS] += letters > 1 && letters == capitals;
        uint64_t place = mix(plain) & (uint64_t)stop->mask;
        while (stop->keys[place] && stop->keys[place] != plain) place = (place + 1) & (uint64_t)stop->mask;
        if (stop->keys[place]) {
            counts[STOP_WORDS]++;
            if (stop->place[place] >= 0) seen |= (int64_t)1 << stop->place[place];
        }
    }
    counts[WORD_COUNT] = words, counts[DISTINCT_STOP_WORDS] = __builtin_popcountll((uint64_t)seen);
    return words;
}

static int32_t ends_with(const Characters *table, const uint32_t *p, int64_t n, const uint32_t *const *endings) {
    for (; *endings; endings++) {
        int64_t size = 0;
        while ((*endings)[size]) size++;
        int64_t same = 0;
        while (size <= n && same < size && lower_of(table, p[n - size + same]) == (*endings)[same]) same++;
        if (same == size) return 1;
    }
    return 0;
}

/* Sums, over all but the first place of every number, one and the lengths. */
static void count_copies(Room *room, int64_t n, int64_t *copies, int64_t *chars) {
    number(room, room->line, 0, n);
    for (int64_t i = 0; i < n; i++)
        if (room->first[room->which[i]] != i) ++*copies, *chars += room->line_length[i];
}

static void count_lines(const Characters *table, const uint32_t *p, int64_t n, Room *room, int64_t *counts) {
    int64_t lines = 0, paragraphs = 0, is_open = 0;
    uint64_t *paragraph = room->gram; /* not yet in use */
    uint32_t *paragraph_length = (uint32_t *)room->cover;
    for (int64_t start = 0; start <= n;) {
        int64_t stop = start;
        while (stop < n && p[stop] != '\n') stop++;
        int64_t first = start, last = stop;
        while (first < last && class_of(table, p[first]) & SPACE) first++;
        while (last > first && class_of(table, p[last - 1]) & SPACE) last--;
        start = stop + 1;
        if (first == last) {
            is_open = 0;
            continue;
        }
        const uint32_t *line = p + first;
        int64_t size = last - first;
        uint64_t hash = FNV;
        for (int64_t i = 0; i < size; i++) hash = (hash ^ line[i]) * PRIME;
        hash = mix(hash);
        if (!is_open) paragraph[paragraphs] = 0, paragraph_length[paragraphs] = 0, paragraphs++;
        is_open = 1;
        paragraph[paragraphs - 1] = paragraph[paragraphs - 1] * BASE + hash, paragraph_length[paragraphs - 1] += (uint32_t)size;
        room->line[lines] = hash, room->line_length[lines] = (uint32_t)size, lines++;
        counts[SHORT_LINES] += size <= SHORT_LINE, counts[ENDED_LINES] += (class_of(table, line[size - 1]) & LINE_END) != 0;
        counts[BULLET_LINES] += (class_of(table, line[0]) & BULLET) != 0;
        counts[ELLIPSIS_LINES] += ends_with(table, line, size, ELLIPSES), counts[READ_MORE_LINES] += ends_with(table, line, size, READ_MORE);
    }
    counts[LINES] = lines, counts[PARAGRAPHS] = paragraphs;
    count_copies(room, lines, &counts[DUPLICATE_LINES], &counts[DUPLICATE_LINE_CHARS]);
    memcpy(room->line, paragraph, (size_t)paragraphs * 8), memcpy(room->line_length, paragraph_length, (size_t)paragraphs * 4);
    count_copies(room, paragraphs, &counts[DUPLICATE_PARAGRAPHS], &counts[DUPLICATE_PARAGRAPH_CHARS]);
}

/* Characters in the most frequent n-gram (of equally frequent ones the longest), all its places together. */
static int64_t top_chars(const Room *room, const uint32_t *before, int64_t found, int64_t n) {
    int64_t most = 1, chars = 0;
    for (int64_t entry = 0; entry < found; entry++) {
        int64_t count = room->count[entry], size = before[room->first[entry] + n] - before[room->first[entry]];
        if (count > most || (count == most && count > 1 && count * size > chars)) most = count, chars = count * size;
    }
    return chars;
}

/* Characters in n-grams that stand more than once; each place counts once, however many n-grams cover it. */
static int64_t covered_chars(Room *room, const uint8_t *is_copy, int64_t tokens, int64_t n) {
    int64_t chars = 0, open = 0;
    memset(room->cover, 0, (size_t)(tokens + 1) * 4);
    for (int64_t i = 0; i + n <= tokens; i++)
        if (is_copy[i]) room->cover[i]++, room->cover[i + n]--;
    for (int64_t i = 0; i < tokens; i++) {
        open += room->cover[i];
        if (open > 0) chars += room->length[i];
    }
    return chars;
}

static double count_tokens(Room *room, int64_t tokens, int64_t *counts) {
    uint32_t *before = room->line_length; /* characters before each token; lines are counted already */
    before[0] = 0;
    for (int64_t i = 0; i < tokens; i++) before[i + 1] = before[i] + room->length[i];
    counts[TOKENS] = tokens, counts[TOKEN_CHARS] = before[tokens];
    int64_t found = number(room, room->hash, 0, tokens), repeated = 0;
    double entropy = 0;
    for (int64_t entry = 0; entry < found; entry++) {
        double share = (double)room->count[entry] / (double)tokens;
        entropy -= share * log(share);
    }
    counts[UNIQUE_TOKENS] = found;
    for (int64_t i = 0; i < tokens; i++) room->is_candidate[i] = room->count[room->which[i]] > 1, room->gram[i] = room->hash[i];
    for (int64_t n = 2; n <= MAX_GRAM && n <= tokens; n++) {
        int64_t places = tokens - n + 1;
        /* An n-gram can stand twice only if both (n-1)-grams in it do. */
        for (int64_t i = 0; i < places; i++) {
            room->is_candidate[i] &= room->is_candidate[i + 1];
            room->gram[i] = room->gram[i] * BASE + room->hash[i + n - 1];
        }
        found = number(room, room->gram, room->is_candidate, places), repeated = 0;
        if (n <= 4) counts[TOP_2_GRAM + n - 2] = top_chars(room, before, found, n);
        for (int64_t i = 0; i < places; i++) repeated += room->is_candidate[i] = room->is_candidate[i] && room->count[room->which[i]] > 1;
        if (!repeated) break;
        if (n >= 5) counts[DUPLICATE_5_GRAM + n - 5] = covered_chars(room, room->is_candidate, tokens, n);
    }
    return entropy;
}

/* Counts documents first to last: counts[documents][NUM_COUNTS], entropy[documents] in nats. Returns 0 if memory ends. */
int32_t count_documents(const uint8_t *texts, const int64_t *offsets, int64_t first, int64_t last, int32_t unit, const Characters *table,
                        const StopWords *stop, int64_t *counts, double *entropy) {
    Room room = {0};
    for (int64_t i = first; i < last; i++) {
        int64_t num_bytes = offsets[i + 1] - offsets[i];
        if (!grow(&room, num_bytes)) return free_room(&room), 0;
        int64_t *row = counts + i * NUM_COUNTS, n = decode(texts + offsets[i], num_bytes, room.points);
        memset(row, 0, NUM_COUNTS * sizeof(int64_t));
        count_characters(table, room.points, n, row);
        count_lines(table, room.points, n, &room, row);
        int64_t tokens = count_words(table, stop, room.points, n, &room, row);
        if (unit == CHARACTERS) {
            tokens = 0;
            for (int64_t k = 0; k < n; k++)
                if (!(class_of(table, room.points[k]) & SPACE)) room.hash[tokens] = mix(room.points[k]), room.length[tokens] = 1, tokens++;
        }
        entropy[i] = count_tokens(&room, tokens, row);
    }
    free_room(&room);
    return 1;
}
