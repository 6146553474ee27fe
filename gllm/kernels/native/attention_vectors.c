/* Attention with one query over float32 pages, by vectors: every key and value is read from memory once, in order, for
 * all heads.
 *
 * Source of merging: Milakov and Gimelshein 2018.
 */
#include "attention_decode.h"

#define AHEAD 16 /* tokens that memory is asked for before they are needed */
#define WIDE 4   /* vectors of a head that stay in registers */
#if LANES == 16
#define SHARED 4 /* query heads that stay in registers beside them */
#else
#define SHARED 2
#endif

/* What memory is asked for next: the same heads' bytes [start, end) of each place, a head at a time. */
typedef struct {
    const char **place, **last;
    long at, start, end, head_bytes;
} Ahead;

INLINE void ask(Ahead *ahead, int heads) {
    for (int n = 0; n < heads && ahead->place < ahead->last; n++) {
        const char *from = *ahead->place + ahead->at;
        for (long i = 0; i < ahead->head_bytes; i += 64) __builtin_prefetch(from + i, 0, 2); /* the second cache */
        ahead->at += ahead->head_bytes;
        if (ahead->at == ahead->end) {
            ahead->at = ahead->start;
            ahead->place++;
        }
    }
}

/* sums[h][t] += products of `lanes` elements from `at` on of four keys, and of `count` query heads. */
INLINE void multiply(const char **keys, long at, long lanes, const float *q, long q_step, int count,
                     vec sums[SHARED][4]) {
    vec key[4];
#pragma GCC unroll 4
    for (int t = 0; t < 4; t++) key[t] = stored(keys[t], at, lanes);
#pragma GCC unroll 4
    for (int h = 0; h < count; h++) {
        const vec x = load(q + h * q_step);
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) sums[h][t] += x * key[t];
    }
}

/* scores[h][0..LANES) of `count` query heads with LANES keys of the key head that begins at element `at`. */
INLINE void score(const Attention *a, const char **keys, long at, const float *q, int count, float *scores,
                  Ahead *ahead) {
    const long whole = a->size / LANES * LANES, padded = padded_size(a);
    vec found[SHARED][LANES / 4];
    for (int four = 0; four < LANES / 4; four++) {
        vec sums[SHARED][4];
        if (ahead) ask(ahead, 4);
#pragma GCC unroll 4
        for (int h = 0; h < count; h++)
#pragma GCC unroll 4
            for (int t = 0; t < 4; t++) sums[h][t] = (vec){0};
        for (long d = 0; d < whole; d += LANES)
            multiply(keys + 4 * four, at + d, LANES, q + d, padded, count, sums);
        if (whole < a->size)
            multiply(keys + 4 * four, at + whole, a->size - whole, q + whole, padded, count, sums);
#pragma GCC unroll 4
        for (int h = 0; h < count; h++)
            found[h][four] = pairs(pairs(sums[h][0], sums[h][1]), pairs(sums[h][2], sums[h][3]));
    }
#pragma GCC unroll 4
    for (int h = 0; h < count; h++) {
        vec *four = found[h];
#if LANES == 16
        four[0] = pairs(pairs(four[0], four[1]), pairs(four[2], four[3]));
#elif LANES == 8
        four[0] = pairs(four[0], four[1]);
#endif
        store(scores + h * SPLIT, four[0]);
    }
}

/* out[h] += sum over `tokens` of weights[h][t] * value[t], of `wide` vectors from element `at` on, or of one with
 * `lanes` elements. */
INLINE void gather(const char **values, long tokens, long at, int wide, long lanes, const float *weights,
                   int count, float *out, long out_step, Ahead *ahead) {
    vec sums[SHARED][WIDE];
#pragma GCC unroll 4
    for (int h = 0; h < count; h++)
#pragma GCC unroll 4
        for (int i = 0; i < wide; i++) sums[h][i] = load(out + h * out_step + i * LANES);
    for (long t = 0; t < tokens; t++) {
        if (ahead) ask(ahead, 1);
#pragma GCC unroll 4
        for (int i = 0; i < wide; i++) {
            const vec value = stored(values[t], at + i * LANES, lanes);
#pragma GCC unroll 4
            for (int h = 0; h < count; h++) sums[h][i] += value * weights[h * SPLIT + t];
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < count; h++)
#pragma GCC unroll 4
        for (int i = 0; i < wide; i++) store(out + h * out_step + i * LANES, sums[h][i]);
}

/* The same of a whole head. */
INLINE void gather_head(const Attention *a, const char **values, long tokens, long at, const float *weights,
                        int count, float *out, Ahead *ahead) {
    const long padded = padded_size(a);
    long d = 0;
    for (; d + WIDE * LANES <= a->size; d += WIDE * LANES, ahead = NULL)
        gather(values, tokens, at + d, WIDE, LANES, weights, count, out + d, padded, ahead);
    for (; d + LANES <= a->size; d += LANES)
        gather(values, tokens, at + d, 1, LANES, weights, count, out + d, padded, NULL);
    if (d < a->size) gather(values, tokens, at + d, 1, a->size - d, weights, count, out + d, padded, NULL);
}

/* CALL(number of query heads, a constant), for up to SHARED. */
#if SHARED == 4
#define BY_COUNT(count, CALL)        \
    switch (count) {                 \
    case 1: CALL(1); break;          \
    case 2: CALL(2); break;          \
    case 3: CALL(3); break;          \
    default: CALL(4);                \
    }
#else
#define BY_COUNT(count, CALL) \
    if (count == 1)           \
        CALL(1);              \
    else                      \
        CALL(2);
#endif

void weigh_split(const Attention *a, const Split *split, const Split *next, long kv_start, long kv_end) {
    const long shared = a->heads / a->kv_heads, first_head = kv_start * shared, heads = (kv_end - kv_start) * shared;
    const long size = a->size, padded = padded_size(a), tokens = split->tokens, head_bytes = size * sizeof(float);
    const long whole = (tokens + LANES - 1) / LANES * LANES;
    float q[heads * padded], scores[heads * SPLIT];
    float *out = split->out + first_head * padded, *top = split->top + first_head, *total = split->total + first_head;
    const char *places[2 * SPLIT], **keys = places, **values = places + whole;
    locate(a, a->k_pages, split->row, split->first, tokens, keys);
    for (long t = tokens; t < whole; t++) keys[t] = keys[tokens - 1]; /* their scores are not looked at */
    locate(a, a->v_pages, split->row, split->first, tokens, values);
    Ahead ahead = {places + AHEAD, values + tokens, kv_start * head_bytes, kv_start * head_bytes, kv_end * head_bytes,
                   head_bytes};
    memset(q, 0, sizeof q);
    memset(out, 0, 4 * heads * padded);
    for (long h = 0; h < heads; h++) {
        const float *from = a->q + a->starts[split->row] * a->q_step + (first_head + h) * size;
        for (long d = 0; d < size; d++) q[h * padded + d] = from[d] * a->scale;
    }
    for (long t = 0; t < tokens; t += LANES)
        for (long h = 0; h < heads; h += shared)
            for (long s = 0; s < shared; s += SHARED) {
                const long at = (first_head + h) / shared * size, head = h + s;
#define CALL(n) \
    score(a, keys + t, at, q + head * padded, n, scores + head * SPLIT + t, s ? NULL : &ahead)
                BY_COUNT(shared - s, CALL)
#undef CALL
            }
    for (long h = 0; h < heads; h++) {
        top[h] = -INFINITY;
        total[h] = 0;
        soften(scores + h * SPLIT, tokens, top + h, total + h);
    }
    for (long t = 0; t < tokens; t += LANES)
        for (long h = 0; h < heads; h += shared)
            for (long s = 0; s < shared; s += SHARED) {
                const long at = (first_head + h) / shared * size, head = h + s;
                const long count = tokens - t < LANES ? tokens - t : LANES;
#define CALL(n)                                                                                             \
    gather_head(a, values + t, count, at, scores + head * SPLIT + t, n, out + head * padded, s ? NULL : &ahead)
                BY_COUNT(shared - s, CALL)
#undef CALL
            }
}

void merge_splits(const Attention *a, const Split *splits, long count, long head) {
    const long padded = padded_size(a);
    float *out = a->out + (a->starts[splits->row] * a->heads + head) * a->size;
    float top = -INFINITY, total = 0, sums[padded];
    for (long n = 0; n < count; n++) top = splits[n].top[head] > top ? splits[n].top[head] : top;
    memset(sums, 0, sizeof sums);
    for (long n = 0; n < count; n++) {
        const float factor = exponential(all(splits[n].top[head] - top))[0];
        const float *part = splits[n].out + head * padded;
        total += factor * splits[n].total[head];
        for (long d = 0; d < padded; d += LANES) store(sums + d, load(sums + d) + factor * load(part + d));
    }
    for (long d = 0; d < a->size; d++) out[d] = sums[d] / total;
}
