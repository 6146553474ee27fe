/* What the two ways of attending to prompts share: float32's own instructions and the matrix unit. */
#ifndef GLLM_ATTENTION_PROMPT_H
#define GLLM_ATTENTION_PROMPT_H

#include "attention.h"

typedef struct { /* a row, and where its packed keys and values begin */
    long row, context;
    size_t at;     /* of the keys, in the workspace */
    float *keys;   /* [kv_heads][panels of tokens][size][PANEL]; or tiles, see attention_amx.c */
    float *values; /* [kv_heads][panels of size][tokens][PANEL]; or tiles */
    long first_item;
} Chunk;

INLINE long panels_of(long count) { return (count + PANEL - 1) / PANEL; }

#ifdef HAS_TILES
#define TALL 32 /* queries of an item on the matrix unit */

int gllm_has_matrix_unit(void);

/* Floats of the keys, or of the values, of one key head. */
size_t tiles_size(long size, long context);

/* The keys and values of a panel of tokens as tiles. */
void pack_tiles(const Attention *a, const Chunk *chunk, long kv_head, long panel);

/* Query head `head` of TALL queries from `query` on, of the row's `count`. */
void attend_tiles(const Attention *a, const Chunk *chunk, long head, long query, long count);

/* Before and after a thread's calls. */
void begin_tiles(void);
void end_tiles(void);
#endif

#endif
