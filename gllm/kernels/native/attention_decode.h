/* What the two ways of attending with one query share: float32's own instructions and the matrix unit. */
#ifndef GLLM_ATTENTION_DECODE_H
#define GLLM_ATTENTION_DECODE_H

#include "attention.h"

typedef struct { /* tokens of a row, and what they give: not yet divided by the total */
    long row, first, tokens;
    float *out;         /* [heads][padded size] */
    float *top, *total; /* [heads] */
} Split;

INLINE long padded_size(const Attention *a) { return (a->size + LANES - 1) / LANES * LANES; }

/* Key heads [kv_start, kv_end) of a split; `next` is what the thread weighs then, if there is any. */
void weigh_split(const Attention *a, const Split *split, const Split *next, long kv_start, long kv_end);

/* One head of a row from its `count` splits, in their order. */
void merge_splits(const Attention *a, const Split *splits, long count, long head);

#ifdef HAS_TILES
/* The same, where pages are bfloat16. */
void weigh_rounded(const Attention *a, const Split *split, const Split *next, long kv_start, long kv_end);
void merge_rounded(const Attention *a, const Split *splits, long count, long head);
#endif

#endif
