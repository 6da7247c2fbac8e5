/* Qwen3-ASR's audio encoder for the CPU, from spectrograms to embeddings in one call.
 *
 * Its arithmetic is that of matrix products, those of its convolutions too. Here every thread takes the next few outputs of a
 * product until there are none left, so that nobody waits long for a thread whose core is wanted by another process; what
 * lies between the products is done where they are.
 *
 * Residuals and sums are float32, what goes into a product is bfloat16 or, where weights are int8, 8 bits.
 */

#include "attention.h"

enum {
    TAPS = 3,           /* of a convolution, in time and in frequency; its stride is 2 */
    CONVOLUTIONS = 3,
    PLACES = 2 * GROUP, /* of a convolution's output that a thread takes at a time */
    TOGETHER = 4        /* chunks that are convolved together: what lies between the convolutions stays in the cache */
};

typedef struct {
    const float *weight, *bias; /* (hidden,) */
} LayerNorm;

typedef struct {
    Weight qkv, output; /* (3 * hidden, hidden) and (hidden, hidden) */
    Weight up, down;    /* (intermediate, hidden) and (hidden, intermediate) */
    LayerNorm attention_norm, mlp_norm;
} EncoderLayer;

/* hidden, intermediate and embedding are multiples of TILE, hidden / heads of LANES, channels of LINE; what joined takes is one
 * of LINE8. Nothing in here checks that. */
typedef struct {
    Weight convolutions[CONVOLUTIONS]; /* (channels, TAPS * TAPS * channels), the first one's inputs filled up: for each time
                                        * its bins, for each bin its channels */
    Weight joined;                     /* (hidden, bins * channels) of those that the last convolution leaves */
    const float *places;               /* (tokens of a chunk, hidden) what each is told of where it is */
    const EncoderLayer *layers;
    LayerNorm norm;
    Weight first, second; /* of the projector: (hidden, hidden) and (embedding, hidden) */
    int64_t layer_count, hidden, intermediate, heads, embedding, channels, frames, bins; /* the last two of a chunk */
    float epsilon, scaling;
} Encoder;

/* Spectrograms, one chunk after the other, and what becomes of them. */
typedef struct {
    const bf16 *spectrum; /* (chunks, frames, bins), zeros where there is no sound */
    int64_t chunk_count, window_count;
    const int64_t *chunk_starts;  /* (chunks + 1,) the tokens before each, and all */
    const int64_t *window_starts; /* (windows + 1,) the tokens before each, and all */
    int64_t longest;              /* tokens of a window, rounded up to TILE */
    float *embeddings;            /* (tokens, embedding) */
    float *residual;              /* (tokens, hidden), scratch as all that follow */
    bf16 *images[CONVOLUTIONS];   /* (TOGETHER, times, bins, channels), the last one's (tokens, bins, channels) */
    bf16 *wide;                   /* (tokens, 3 * hidden or intermediate) */
    bf16 *attended;               /* (tokens, hidden) */
    bf16 *patches;                /* (threads, PLACES, 16 * channels) */
    int64_t *taken;               /* a zero for each product */
    Room room;                    /* as in a Pass, for as many inputs as any product has */
    /* Of each thread: */
    float *scores;                /* (threads, GROUP, longest) */
    bf16 *shares;                 /* (threads, GROUP, longest) */
    bf16 *queries;                /* (threads, GROUP, head_dim) */
    bf16 *tiles;                  /* (threads, longest * head_dim + padded_head * longest), see Batch */
} Sounds;

/* As decoder_interface. */
const int64_t encoder_interface[] = {1, sizeof(EncoderLayer), sizeof(Encoder), sizeof(Sounds), PLACES, TOGETHER};

static inline void store_some_narrow(bf16 *to, __m512 numbers, int64_t count) {
    __mmask16 mask = count < LANES ? (1 << count) - 1 : -1;
    _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(numbers));
}

/* A chunk as a convolution sees it. */
typedef struct {
    const bf16 *pixels; /* (times, bins, channels) */
    int64_t times, bins, channels;
} Image;

static inline int64_t halved(int64_t size) { return (size + 1) / 2; }

/* What one place of a convolution's output is made of; zeros beyond the edges. */
static void gather(Image image, int64_t time, int64_t bin, bf16 *to) {
    int64_t first = 2 * bin - 1, start = first < 0 ? 0 : first, end = first + TAPS > image.bins ? image.bins : first + TAPS;
    for (int64_t at = 2 * time - 1; at < 2 * time - 1 + TAPS; at++, to += TAPS * image.channels) {
        int is_inside = at >= 0 && at < image.times;
        if (!is_inside || end - start < TAPS) memset(to, 0, TAPS * image.channels * sizeof *to);
        if (is_inside)
            memcpy(to + (start - first) * image.channels, image.pixels + (at * image.bins + start) * image.channels,
                   (end - start) * image.channels * sizeof *to);
    }
}

/* GELU of a convolution at some places, of which there are halved(bins) for each time. To (times, bins, channels). */
static void convolve(Weight weight, Image image, int64_t first, int64_t count, int64_t channels, bf16 *numbers, bf16 *to) {
    int64_t bins = halved(image.bins), own = TAPS * TAPS * image.channels, size = round_up(own, LINE);
    Inputs inputs = {numbers, NULL, size};
    for (int64_t place = 0; place < count; place++) {
        bf16 patch[size];
        memset(patch + own, 0, (size - own) * sizeof *patch);
        gather(image, (first + place) / bins, (first + place) % bins, patch);
        int64_t group = place / GROUP * GROUP;
        put_row(patch, size, numbers + group * size, place - group, least(GROUP, count - group));
    }
    for (int64_t channel = 0; channel < channels; channel += TILE)
        for (int64_t group = 0; group < count; group += GROUP) {
            float sums[GROUP][TILE];
            int64_t rows = least(GROUP, count - group);
            Ahead ahead = ahead_of(weight, size, channel, channel + TILE < channels ? channel + TILE : 0, group / GROUP);
            multiply_tile(weight, inputs, channel, group, rows, ahead, sums);
            for (int64_t row = 0; row < rows; row++)
                for (int64_t i = 0; i < TILE && channel + i < channels; i += LANES)
                    store_some_narrow(to + (first + group + row) * channels + channel + i, gelu(_mm512_loadu_ps(sums[row] + i)),
                                      channels - channel - i);
        }
}

/* Where a convolution reads and writes for one chunk of those that are convolved together. */
typedef struct {
    Image image;
    int64_t places; /* of its output, as many as are needed for the chunk's tokens */
    bf16 *to;
} Work;

static Work work_of(const Encoder *encoder, const Sounds *sounds, int which, int64_t chunk) {
    int64_t times = encoder->frames, bins = encoder->bins, tokens = sounds->chunk_starts[chunk + 1] - sounds->chunk_starts[chunk];
    Image image = {sounds->spectrum + chunk * times * bins, times, bins, 1};
    for (int i = 0; i < which; i++) {
        int64_t channels = encoder->channels, size = halved(image.times) * halved(image.bins) * channels;
        image = (Image){sounds->images[i] + chunk % TOGETHER * size, halved(image.times), halved(image.bins), channels};
    }
    int64_t needed = tokens << (CONVOLUTIONS - 1 - which); /* times: each sees two and one of those before it */
    int64_t all = halved(image.times), size = halved(image.bins) * encoder->channels;
    int64_t skipped = which + 1 < CONVOLUTIONS ? chunk % TOGETHER * all : sounds->chunk_starts[chunk];
    return (Work){image, least(needed, all) * halved(image.bins), sounds->images[which] + skipped * size};
}

static int64_t items_of(Work work) { return (work.places + PLACES - 1) / PLACES; }

/* One convolution of some chunks. All threads call it; none leaves before all have. */
static void convolve_chunks(const Encoder *encoder, const Sounds *sounds, int which, int64_t start, int64_t end) {
    int64_t items = 0, size = round_up(TAPS * TAPS, LINE) * encoder->channels;
    for (int64_t chunk = start; chunk < end; chunk++) items += items_of(work_of(encoder, sounds, which, chunk));
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < items; item++) {
        int64_t left = item, chunk = start;
        Work work = work_of(encoder, sounds, which, chunk);
        while (left >= items_of(work)) {
            left -= items_of(work);
            work = work_of(encoder, sounds, which, ++chunk);
        }
        int64_t first = left * PLACES, count = least(PLACES, work.places - first);
        convolve(encoder->convolutions[which], work.image, first, count, encoder->channels,
                 sounds->patches + omp_get_thread_num() * PLACES * size, work.to);
    }
}

/* To a mean of 0 and a mean square of 1, then weighted. */
static void standardise(const float *numbers, LayerNorm norm, float epsilon, int64_t size, bf16 *to) {
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < size; i += LANES) sum += _mm512_loadu_ps(numbers + i);
    __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)size);
    for (int64_t i = 0; i < size; i += LANES) {
        __m512 off = _mm512_loadu_ps(numbers + i) - mean;
        squares = _mm512_fmadd_ps(off, off, squares);
    }
    __m512 factor = _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(squares) / (float)size + epsilon));
    for (int64_t i = 0; i < size; i += LANES) {
        __m512 off = (_mm512_loadu_ps(numbers + i) - mean) * factor;
        store_narrow(to + i, _mm512_fmadd_ps(off, _mm512_loadu_ps(norm.weight + i), _mm512_loadu_ps(norm.bias + i)));
    }
}

/* The residual, standardised, for a product. */
static Inputs standardised_for(Weight weight, const float *residual, LayerNorm norm, float epsilon, int64_t rows, int64_t size,
                               Room room) {
    Part part = part_of(rows);
    room = own_room(room, part, rows, size);
    for (int64_t row = part.first; row < part.end; row++) {
        bf16 standard[size];
        standardise(residual + row * size, norm, epsilon, size, standard);
        prepare(weight, standard, size, row, rows, room);
    }
    wait_for(part);
    return (Inputs){room.numbers, room.row_scales, size};
}

/* One head of one window: each of its tokens looks at all. */
static void attend_window(const Encoder *encoder, const Sounds *sounds, int64_t start, int64_t end, int64_t head, Scratch scratch) {
    int64_t hidden = encoder->hidden, size = hidden / encoder->heads, tokens = end - start, span = round_up(tokens, TILE);
    const bf16 *projected = sounds->wide + start * 3 * hidden + head * size;
    bf16 *keys = scratch.tiles, *values = scratch.tiles + span * size;
    tile_keys(projected + hidden, 3 * hidden, tokens, size, keys);
    tile_values(projected + 2 * hidden, 3 * hidden, tokens, size, span, values);
    for (int64_t first = 0; first < tokens; first += GROUP) {
        int64_t count = least(GROUP, tokens - first), own[GROUP];
        bf16 *to[GROUP], query[size];
        for (int64_t row = 0; row < count; row++) {
            const bf16 *from = projected + (first + row) * 3 * hidden;
            for (int64_t i = 0; i < size; i += LANES) store_narrow(query + i, load_wide(from + i) * encoder->scaling);
            put_row(query, size, scratch.queries, row, count);
            own[row] = tokens;
            to[row] = sounds->attended + (start + first + row) * hidden + head * size;
        }
        attend_group(keys, values, span, size, count, own, scratch, to);
    }
}

/* All threads call it and share the heads of the windows; none leaves before all have. */
static void attend_windows(const Encoder *encoder, const Sounds *sounds) {
    int64_t thread = omp_get_thread_num(), longest = sounds->longest, size = encoder->hidden / encoder->heads;
    Scratch scratch = {
        sounds->scores + thread * GROUP * longest,
        sounds->shares + thread * GROUP * longest,
        sounds->queries + thread * GROUP * size,
        sounds->tiles + thread * longest * (size + round_up(size, TILE)),
    };
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < sounds->window_count * encoder->heads; item++) {
        const int64_t *window = sounds->window_starts + item / encoder->heads;
        attend_window(encoder, sounds, window[0], window[1], item % encoder->heads, scratch);
    }
}

/* The residual from spectrograms. */
static void convolve_all(const Encoder *encoder, const Sounds *sounds, int64_t *taken) {
    int64_t hidden = encoder->hidden, bins = encoder->bins, tokens = sounds->chunk_starts[sounds->chunk_count];
    for (int64_t start = 0; start < sounds->chunk_count; start += TOGETHER) {
        int64_t end = least(sounds->chunk_count, start + TOGETHER);
        for (int which = 0; which < CONVOLUTIONS; which++) convolve_chunks(encoder, sounds, which, start, end);
    }
    for (int which = 0; which < CONVOLUTIONS; which++) bins = halved(bins);
    Inputs inputs = inputs_for(encoder->joined, sounds->images[CONVOLUTIONS - 1], tokens, bins * encoder->channels, sounds->room);
    multiply(encoder->joined, inputs, hidden, tokens, sounds->residual, STORED, taken);
#pragma omp for schedule(static)
    for (int64_t chunk = 0; chunk < sounds->chunk_count; chunk++) {
        int64_t start = sounds->chunk_starts[chunk], end = sounds->chunk_starts[chunk + 1];
        for (int64_t i = 0; i < (end - start) * hidden; i++) sounds->residual[start * hidden + i] += encoder->places[i];
    }
}

/* For what is written when, see decode. */
void encode(const Encoder *encoder, const Sounds *sounds, int threads) {
    int64_t hidden = encoder->hidden, intermediate = encoder->intermediate, tokens = sounds->chunk_starts[sounds->chunk_count];
    float *residual = sounds->residual, epsilon = encoder->epsilon;
    Room room = sounds->room;
#pragma omp parallel num_threads(threads)
    {
        int64_t *taken = sounds->taken;
        Inputs inputs;
        convolve_all(encoder, sounds, taken++);
        for (const EncoderLayer *layer = encoder->layers; layer < encoder->layers + encoder->layer_count; layer++) {
            inputs = standardised_for(layer->qkv, residual, layer->attention_norm, epsilon, tokens, hidden, room);
            multiply(layer->qkv, inputs, 3 * hidden, tokens, sounds->wide, NARROWED, taken++);
            attend_windows(encoder, sounds);
            inputs = inputs_for(layer->output, sounds->attended, tokens, hidden, room);
            multiply(layer->output, inputs, hidden, tokens, residual, ADDED, taken++);
            inputs = standardised_for(layer->up, residual, layer->mlp_norm, epsilon, tokens, hidden, room);
            multiply(layer->up, inputs, intermediate, tokens, sounds->wide, ACTIVATED, taken++);
            inputs = inputs_for(layer->down, sounds->wide, tokens, intermediate, room);
            multiply(layer->down, inputs, hidden, tokens, residual, ADDED, taken++);
        }
        inputs = standardised_for(encoder->first, residual, encoder->norm, epsilon, tokens, hidden, room);
        multiply(encoder->first, inputs, hidden, tokens, sounds->wide, ACTIVATED, taken++);
        inputs = inputs_for(encoder->second, sounds->wide, tokens, hidden, room);
        multiply(encoder->second, inputs, encoder->embedding, tokens, sounds->embeddings, STORED, taken++);
    }
}
