/* What attention is computed from, and what its files share: where a token lies, and the softening of scores.
 *
 * Knows nothing of how work is cut and shared among threads.
 */
#ifndef GLLM_ATTENTION_H
#define GLLM_ATTENTION_H

#include <math.h>
#include <stddef.h>

#include "tile.h"

#define SPLIT 256 /* tokens that are weighed at once, counted from the start of a sequence */

typedef struct {
    const float *q; /* [tokens, heads, size], a token every q_step */
    long q_step;
    const void *k_pages, *v_pages; /* [pages, page_size, kv_heads, size] of `type` */
    int type;                      /* FLOAT32; BFLOAT16 on a matrix unit only */
    long page_size, kv_heads, heads, size;
    const int32_t *table; /* [rows, table_step] */
    long table_step;
    const int32_t *before, *starts;
    long rows;
    float scale;
    float *out; /* [tokens, heads, size] */
} Attention;

/* Rows of one query, `count` of them. Returns 1 if memory is short. */
int attend_decodes(const Attention *a, const long *rows, long count);

/* Rows of several queries, `count` of them. Returns 1 if memory is short. */
int attend_prompts(const Attention *a, const long *rows, long count);

INLINE long panels_of(long count) { return (count + PANEL - 1) / PANEL; }

/* Room for so many floats, until it is asked for again; NULL if memory is short. One caller at a time. */
float *workspace(size_t floats);

/* places[t]: where token first + t of a row begins in `pages`. */
INLINE void locate(const Attention *a, const void *pages, long row, long first, long tokens, const char **places) {
    const int32_t *table = a->table + row * a->table_step;
    const long token_bytes = a->kv_heads * a->size * bytes_of(a->type), page_bytes = a->page_size * token_bytes;
    long page = first / a->page_size, inside = first % a->page_size;
    for (long t = 0; t < tokens; page++, inside = 0) {
        const char *place = (const char *)pages + table[page] * page_bytes + inside * token_bytes;
        for (; inside < a->page_size && t < tokens; inside++, place += token_bytes) places[t++] = place;
    }
}

/* Floats [at, at + LANES) of what begins at `place`, of which only `count` are there; the others are 0. */
INLINE vec stored(const char *place, long at, long count) {
    vec x = {0};
    memcpy(&x, place + 4 * at, 4 * count);
    return x;
}

/* exp(scores - their new maximum) in place, of `count` scores with room for a whole vector; the sum so far
 * and the maximum so far follow. Returns the factor for what was summed before. */
INLINE float soften(float *scores, long count, float *top, float *total) {
    const long whole = (count + LANES - 1) / LANES * LANES;
    for (long i = count; i < whole; i++) scores[i] = -INFINITY;
    vec most = load(scores);
    for (long i = LANES; i < whole; i += LANES) most = larger(most, load(scores + i));
    const float found = largest(most), now = found > *top ? found : *top;
    const float factor = exponential(all(*top - now))[0];
    vec added = {0};
    for (long i = 0; i < whole; i += LANES) {
        const vec weight = exponential(load(scores + i) - now);
        store(scores + i, weight);
        added += weight;
    }
    *top = now;
    *total = *total * factor + sum(added);
    return factor;
}

#endif
