/* Attention of rows of one query.
 *
 * A context is cut into splits of SPLIT tokens, which are weighed independently, on any thread, and merged in
 * their order. They begin at the start of the sequence, so that a row's result does not depend on who shares
 * its batch.
 *
 * Source: split keys, Dao et al. 2023 (Flash-Decoding).
 */
#include <omp.h>
#include <stdlib.h>

#include "attention_decode.h"

#define FEW (1L << 18) /* products that one thread is done with before another has woken */

/* The splits of all rows, those of one row side by side; ends[i]: of row rows[i]. Results lie in `room`. */
static void cut(const Attention *a, const long *rows, long count, float *room, Split *splits, long *ends) {
    const long padded = padded_size(a);
    long made = 0;
    for (long i = 0; i < count; i++) {
        const long context = a->before[rows[i]] + 1;
        for (long first = 0; first < context; first += SPLIT) {
            float *top = room + a->heads * padded, *total = top + a->heads;
            const long tokens = context - first < SPLIT ? context - first : SPLIT;
            splits[made++] = (Split){rows[i], first, tokens, room, top, total};
            room = total + a->heads;
        }
        ends[i] = made;
    }
}

typedef struct {
    void (*weigh)(const Attention *a, const Split *split, const Split *next, long kv_start, long kv_end);
    void (*merge)(const Attention *a, const Split *splits, long count, long head);
} Way;

static Way way_of(int type) {
#ifdef HAS_TILES
    if (type == BFLOAT16) return (Way){weigh_rounded, merge_rounded};
#endif
    return (Way){weigh_split, merge_splits};
}

/* The next item's number. */
static long take(long *taken) {
    long item;
#pragma omp atomic capture
    item = (*taken)++;
    return item;
}

int attend_decodes(const Attention *a, const long *rows, long count) {
    long num_splits = 0, contexts = 0;
    for (long i = 0; i < count; i++) {
        contexts += a->before[rows[i]] + 1;
        num_splits += (a->before[rows[i]] + SPLIT) / SPLIT;
    }
    const Way way = way_of(a->type);
    Split *splits = malloc(sizeof(Split) * num_splits);
    long *ends = malloc(sizeof(long) * count);
    float *room = workspace(num_splits * a->heads * (padded_size(a) + 2));
    const int failed = !splits || !ends || !room;
    if (!failed) {
        cut(a, rows, count, room, splits, ends);
        /* Whole tokens where there are enough of them, else single key heads: the result is the same. */
        const int is_small = contexts * a->heads * a->size <= FEW;
        const long parts = is_small || num_splits >= 4 * omp_get_max_threads() ? 1 : a->kv_heads, each = a->kv_heads / parts;
        const long items = num_splits * parts;
        long taken = 0;
#pragma omp parallel if (!is_small)
        {
            for (long item = take(&taken), next; item < items; item = next) {
                next = take(&taken);
                const long start = item % parts * each;
                way.weigh(a, splits + item / parts, next < items && parts == 1 ? splits + next : NULL, start, start + each);
            }
#pragma omp barrier
#pragma omp for schedule(static)
            for (long item = 0; item < count * a->heads; item++) {
                const long i = item / a->heads, first = i ? ends[i - 1] : 0;
                way.merge(a, splits + first, ends[i] - first, item % a->heads);
            }
        }
    }
    free(splits);
    free(ends);
    return failed;
}
