/* What the two ways of attending to prompts share: float32's own instructions and the matrix unit. */
#ifndef GLLM_ATTENTION_PROMPT_H
#define GLLM_ATTENTION_PROMPT_H

#include "attention.h"

typedef struct { /* a row, and where its packed keys and values begin */
    long row, context;
    void *keys;    /* [kv_heads][panels of tokens][size][PANEL] floats; or tiles, see attention_amx.c */
    void *values;  /* [kv_heads][panels of size][tokens][PANEL] floats; or tiles */
    long first_item;
} Chunk;

#ifdef HAS_TILES
int gllm_has_matrix_unit(void);

/* Bytes of the keys, or of the values, of one key head. */
size_t tiles_size(const Attention *a, long context);

/* The keys and values of a panel of tokens as tiles. */
void pack_tiles(const Attention *a, const Chunk *chunk, long kv_head, long panel);

/* Items of a row of so many queries: those of one key head lie side by side, the longest last. */
long column_tiles(const Attention *a, long length);

void attend_tiles(const Attention *a, const Chunk *chunk, long item);

/* Before and after a thread's calls. */
void begin_tiles(void);
void end_tiles(void);
#endif

#endif
