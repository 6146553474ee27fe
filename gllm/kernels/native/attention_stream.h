/* Memory that one query's attention reads is asked for ahead, in the order in which it is read.
 *
 * Knows nothing of what is done with it.
 */
#ifndef GLLM_ATTENTION_STREAM_H
#define GLLM_ATTENTION_STREAM_H

#include "attention_decode.h"

#define AHEAD 32 /* tokens that memory is asked for before they are needed */

/* Places of a split's keys, of its values and of the first keys of what comes next; memory is asked for bytes
 * [start, end) of them. 32 tokens of a piece are a turn, with four occasions to ask. */
typedef struct {
    const char *places[2 * SPLIT + AHEAD], **keys, **values, **next, **last;
    long start, end, share; /* share: places at an occasion */
} Stream;

INLINE void ask(Stream *stream) {
    const char **end = stream->last - stream->next < stream->share ? stream->last : stream->next + stream->share;
    for (; stream->next < end; stream->next++)
        for (long at = stream->start; at < stream->end; at += 64)
            __builtin_prefetch(*stream->next + at, 0, 2); /* into the second cache */
}

#endif
