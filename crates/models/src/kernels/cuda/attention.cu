// Attention over packed rows, forward and backward, in tiles of TILE query rows and TILE keys: no matrix of
// scores is kept.
//
// A block has 128 threads: thread (y, x) of 8 x 16 owns the rows 4 y .. 4 y + 4 of its tile and every 16th
// column, so that the 16 threads of one row are neighbours in a warp and reduce it by shuffles. Tiles of
// queries, keys, values lie in shared memory, WIDTH wide (the head width rounded up, the rest zero); running
// sums lie in registers.
//
// Forward keeps a running maximum and sum of each row and rescales what it has when the maximum grows
// (Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135). Backward computes the scores
// again. One block owns each output element and adds to it in a fixed order: the same input gives the same
// bytes.
#include "common.cuh"

constexpr unsigned TILE = 32;
constexpr unsigned ATTENTION_THREADS = 128;
constexpr unsigned ROWS = 4;    // of a tile, for one thread
constexpr unsigned COLUMNS = 2; // of a tile of scores, for one thread
constexpr unsigned NEIGHBOURS = 16;
// Numbers behind each row of a tile, so that neighbouring rows start in other banks.
constexpr unsigned PAD = 4;
constexpr unsigned SCORE_STRIDE = TILE + 1;

/// The way from scores to weights: `AttentionSettings` in numbers; a softcap or window of 0 is none.
struct Rule {
    float scale, softcap;
    unsigned window, causal;

    /// True when the query at `position` among the keys sees the key.
    __device__ bool shows(unsigned position, unsigned key) const {
        return (!causal || key <= position) && (window == 0 || position < key + window);
    }

    /// The score of a product of query and key.
    __device__ float score(float product) const {
        product *= scale;
        return softcap > 0 ? softcap * tanhf(product / softcap) : product;
    }

    /// Slope of `score` where it is `score`, over `scale`.
    __device__ float slope(float score) const {
        float share = score / softcap;
        return softcap > 0 ? 1 - share * share : 1;
    }

    /// The first key (a multiple of TILE) and the end of the keys that queries from `position` on, `rows` of
    /// them, see.
    __device__ unsigned first_key(unsigned position) const {
        return window > 0 && position + 1 > window ? (position + 1 - window) / TILE * TILE : 0;
    }
    __device__ unsigned end_of_keys(unsigned position, unsigned rows, unsigned keys) const {
        return causal ? min(position + rows, keys) : keys;
    }
};

/// Rows of the matrices and what they share: where a head starts and how far rows are apart.
struct Shape {
    unsigned heads, share, width;

    __device__ size_t query(size_t row, unsigned head) const { return (row * heads + head) * width; }
    __device__ size_t key(size_t row, unsigned head) const { return (row * (heads / share) + head / share) * width; }
    __device__ size_t query_stride() const { return size_t(heads) * width; }
    __device__ size_t key_stride() const { return size_t(heads / share) * width; }
};

__device__ inline unsigned own_row() { return threadIdx.x / NEIGHBOURS * ROWS; }
__device__ inline unsigned own_column() { return threadIdx.x % NEIGHBOURS; }

/// Fills a tile with `rows` rows of `width` numbers, and with zeros.
template <unsigned WIDTH>
__device__ void load_tile(float *tile, const float *source, size_t stride, unsigned rows, unsigned width) {
    for (unsigned i = threadIdx.x; i < TILE * WIDTH; i += ATTENTION_THREADS) {
        unsigned row = i / WIDTH, column = i % WIDTH;
        bool inside = row < rows && column < width;
        tile[row * (WIDTH + PAD) + column] = inside ? source[row * stride + column] : 0;
    }
}

/// `out[i][j]`: the product of this thread's row `i` of `a` and column `j`, a row of `b`.
template <unsigned WIDTH> __device__ void products(float (&out)[ROWS][COLUMNS], const float *a, const float *b) {
    for (unsigned i = 0; i < ROWS; i++) {
        for (unsigned j = 0; j < COLUMNS; j++) {
            out[i][j] = 0;
        }
    }
    a += own_row() * (WIDTH + PAD);
    b += own_column() * (WIDTH + PAD);
#pragma unroll 4
    for (unsigned column = 0; column < WIDTH; column += 4) {
        float4 right[COLUMNS];
        for (unsigned j = 0; j < COLUMNS; j++) {
            right[j] = *reinterpret_cast<const float4 *>(b + j * NEIGHBOURS * (WIDTH + PAD) + column);
        }
        for (unsigned i = 0; i < ROWS; i++) {
            float4 left = *reinterpret_cast<const float4 *>(a + i * (WIDTH + PAD) + column);
            for (unsigned j = 0; j < COLUMNS; j++) {
                out[i][j] += left.x * right[j].x + left.y * right[j].y + left.z * right[j].z + left.w * right[j].w;
            }
        }
    }
}

/// A tile in registers: this thread's rows and every 16th column.
template <unsigned WIDTH> struct Sums {
    float values[ROWS][WIDTH / NEIGHBOURS];

    __device__ Sums() {
        for (unsigned i = 0; i < ROWS; i++) {
            for (unsigned j = 0; j < WIDTH / NEIGHBOURS; j++) {
                values[i][j] = 0;
            }
        }
    }

    __device__ void scale(unsigned i, float factor) {
        for (unsigned j = 0; j < WIDTH / NEIGHBOURS; j++) {
            values[i][j] *= factor;
        }
    }

    /// Adds `scores x tile`.
    __device__ void add(const float *scores, const float *tile) {
        scores += own_row() * SCORE_STRIDE;
        tile += own_column();
#pragma unroll 2
        for (unsigned inner = 0; inner < TILE; inner++) {
            float left[ROWS];
            for (unsigned i = 0; i < ROWS; i++) {
                left[i] = scores[i * SCORE_STRIDE + inner];
            }
            for (unsigned j = 0; j < WIDTH / NEIGHBOURS; j++) {
                float right = tile[inner * (WIDTH + PAD) + j * NEIGHBOURS];
                for (unsigned i = 0; i < ROWS; i++) {
                    values[i][j] += left[i] * right;
                }
            }
        }
    }

    __device__ void store(float *out, size_t stride, unsigned rows, unsigned width, float factor) const {
        for (unsigned i = 0; i < ROWS; i++) {
            for (unsigned j = 0; j < WIDTH / NEIGHBOURS; j++) {
                unsigned row = own_row() + i, column = own_column() + j * NEIGHBOURS;
                if (row < rows && column < width) {
                    out[row * stride + column] = values[i][j] * factor;
                }
            }
        }
    }
};

/// Writes this thread's scores where the whole block reads them.
__device__ inline void share_scores(float *shared, const float (&scores)[ROWS][COLUMNS]) {
    for (unsigned i = 0; i < ROWS; i++) {
        for (unsigned j = 0; j < COLUMNS; j++) {
            shared[(own_row() + i) * SCORE_STRIDE + own_column() + j * NEIGHBOURS] = scores[i][j];
        }
    }
}

/// The running softmax of this thread's rows: largest score so far, and the sum of `exp(score - maximum)`
/// over the keys that this thread has seen (its share; `total` adds up the neighbours).
struct RunningSoftmax {
    float maximum[ROWS], sum[ROWS];

    __device__ RunningSoftmax() {
        for (unsigned i = 0; i < ROWS; i++) {
            maximum[i] = -INFINITY;
            sum[i] = 0;
        }
    }

    /// Turns row `i` of scores (minus infinity where hidden) into weights; returns what everything summed
    /// before is multiplied by.
    __device__ float advance(unsigned i, float (&scores)[ROWS][COLUMNS]) {
        float largest = scores[i][0];
        for (unsigned j = 1; j < COLUMNS; j++) {
            largest = fmaxf(largest, scores[i][j]);
        }
        largest = fmaxf(maximum[i], maximum_of_lanes(largest, NEIGHBOURS));
        bool any = largest > -INFINITY;
        float correction = any ? expf(maximum[i] - largest) : 1;
        sum[i] *= correction;
        for (unsigned j = 0; j < COLUMNS; j++) {
            scores[i][j] = any ? expf(scores[i][j] - largest) : 0;
            sum[i] += scores[i][j];
        }
        maximum[i] = largest;
        return correction;
    }

    __device__ float total(unsigned i) const { return sum_of_lanes(sum[i], NEIGHBOURS); }
};

/// One tile of queries: its rows of the query matrix, the keys of its span, and its first query's position
/// among them.
struct QueryTile {
    unsigned row, rows, key, keys, position;

    __device__ QueryTile(const unsigned *tiles) {
        const unsigned *tile = tiles + blockIdx.x * 5;
        row = tile[0], rows = tile[1], key = tile[2], keys = tile[3], position = tile[4];
    }
};

/// One tile of keys: its rows of the key matrix, its first key's number in its span, the span's query rows
/// and the position of the first of them among the keys.
struct KeyTile {
    unsigned row, rows, number, query, queries, position;

    __device__ KeyTile(const unsigned *tiles) {
        const unsigned *tile = tiles + blockIdx.x * 6;
        row = tile[0], rows = tile[1], number = tile[2], query = tile[3], queries = tile[4], position = tile[5];
    }
};

/// Scores of this thread's queries against the tile of keys that starts with key number `first`; hidden ones
/// minus infinity.
template <unsigned WIDTH>
__device__ void
scores_of_tile(float (&scores)[ROWS][COLUMNS], const float *queries, const float *keys, QueryTile tile, unsigned first, Rule rule) {
    products<WIDTH>(scores, queries, keys);
    for (unsigned i = 0; i < ROWS; i++) {
        for (unsigned j = 0; j < COLUMNS; j++) {
            unsigned key = first + own_column() + j * NEIGHBOURS;
            bool seen = key < tile.keys && rule.shows(tile.position + own_row() + i, key);
            scores[i][j] = seen ? rule.score(scores[i][j]) : -INFINITY;
        }
    }
}

/// Block (tile of queries, head).
template <unsigned WIDTH>
__device__ void attend(
    float *out, const float *q, const float *k, const float *v, const unsigned *tiles, Shape shape, Rule rule) {
    DYNAMIC_SHARED(memory);
    float *queries = memory, *others = queries + TILE * (WIDTH + PAD), *weights = others + TILE * (WIDTH + PAD);
    QueryTile tile(tiles);
    unsigned head = blockIdx.y;
    load_tile<WIDTH>(queries, q + shape.query(tile.row, head), shape.query_stride(), tile.rows, shape.width);
    Sums<WIDTH> sums;
    RunningSoftmax softmax;
    unsigned end = rule.end_of_keys(tile.position, tile.rows, tile.keys);
    for (unsigned first = rule.first_key(tile.position); first < end; first += TILE) {
        size_t start = shape.key(tile.key + first, head);
        unsigned rows = min(TILE, end - first);
        load_tile<WIDTH>(others, k + start, shape.key_stride(), rows, shape.width);
        __syncthreads();
        float scores[ROWS][COLUMNS];
        scores_of_tile<WIDTH>(scores, queries, others, tile, first, rule);
        for (unsigned i = 0; i < ROWS; i++) {
            sums.scale(i, softmax.advance(i, scores));
        }
        share_scores(weights, scores);
        __syncthreads(); // the weights are there, and nobody reads the keys any more
        load_tile<WIDTH>(others, v + start, shape.key_stride(), rows, shape.width);
        __syncthreads();
        sums.add(weights, others);
        __syncthreads();
    }
    for (unsigned i = 0; i < ROWS; i++) {
        float total = softmax.total(i);
        sums.scale(i, total > 0 ? 1 / total : 0);
    }
    sums.store(out + shape.query(tile.row, head), shape.query_stride(), tile.rows, shape.width, 1);
}

/// Block (tile of queries, head): the gradient of the queries. Keeps, for `attend_backward_keys`, two numbers
/// of each row and head: the logarithm of the softmax's denominator, and `sum(P * dP)` with `dP = dy vᵀ`.
template <unsigned WIDTH>
__device__ void attend_backward_queries(
    float *dq, float *logs, float *dots, const float *q, const float *k, const float *v, const float *dy,
    const unsigned *tiles, Shape shape, Rule rule) {
    DYNAMIC_SHARED(memory);
    float *queries = memory, *d_out = queries + TILE * (WIDTH + PAD), *others = d_out + TILE * (WIDTH + PAD);
    float *d_scores = others + TILE * (WIDTH + PAD);
    QueryTile tile(tiles);
    unsigned head = blockIdx.y;
    size_t own = shape.query(tile.row, head);
    load_tile<WIDTH>(queries, q + own, shape.query_stride(), tile.rows, shape.width);
    load_tile<WIDTH>(d_out, dy + own, shape.query_stride(), tile.rows, shape.width);
    unsigned begin = rule.first_key(tile.position), end = rule.end_of_keys(tile.position, tile.rows, tile.keys);
    RunningSoftmax softmax;
    float dot[ROWS] = {};
    for (unsigned first = begin; first < end; first += TILE) {
        size_t start = shape.key(tile.key + first, head);
        unsigned rows = min(TILE, end - first);
        float scores[ROWS][COLUMNS], d_weights[ROWS][COLUMNS];
        load_tile<WIDTH>(others, k + start, shape.key_stride(), rows, shape.width);
        __syncthreads();
        scores_of_tile<WIDTH>(scores, queries, others, tile, first, rule);
        __syncthreads();
        load_tile<WIDTH>(others, v + start, shape.key_stride(), rows, shape.width);
        __syncthreads();
        products<WIDTH>(d_weights, d_out, others);
        for (unsigned i = 0; i < ROWS; i++) {
            dot[i] *= softmax.advance(i, scores);
            for (unsigned j = 0; j < COLUMNS; j++) {
                dot[i] += scores[i][j] * d_weights[i][j];
            }
        }
        __syncthreads();
    }
    float log_total[ROWS];
    for (unsigned i = 0; i < ROWS; i++) {
        float total = softmax.total(i);
        dot[i] = sum_of_lanes(dot[i], NEIGHBOURS) / total;
        log_total[i] = softmax.maximum[i] + logf(total);
        if (own_row() + i < tile.rows && own_column() == 0) {
            size_t row = size_t(tile.row + own_row() + i) * shape.heads + head;
            logs[row] = log_total[i];
            dots[row] = dot[i];
        }
    }
    Sums<WIDTH> sums;
    for (unsigned first = begin; first < end; first += TILE) {
        size_t start = shape.key(tile.key + first, head);
        unsigned rows = min(TILE, end - first);
        float scores[ROWS][COLUMNS], d_weights[ROWS][COLUMNS];
        load_tile<WIDTH>(others, v + start, shape.key_stride(), rows, shape.width);
        __syncthreads();
        products<WIDTH>(d_weights, d_out, others);
        __syncthreads();
        load_tile<WIDTH>(others, k + start, shape.key_stride(), rows, shape.width);
        __syncthreads();
        scores_of_tile<WIDTH>(scores, queries, others, tile, first, rule);
        for (unsigned i = 0; i < ROWS; i++) {
            for (unsigned j = 0; j < COLUMNS; j++) {
                float score = scores[i][j];
                bool seen = score > -INFINITY;
                float slope = seen ? expf(score - log_total[i]) * rule.slope(score) : 0;
                scores[i][j] = slope * (d_weights[i][j] - dot[i]);
            }
        }
        share_scores(d_scores, scores);
        __syncthreads();
        sums.add(d_scores, others);
        __syncthreads();
    }
    sums.store(dq + own, shape.query_stride(), tile.rows, shape.width, rule.scale);
}

/// Block (tile of keys, key-value head): gradients of keys and values, over all query heads that share the
/// head and all queries that see the tile, one after another. Here keys are the rows of a tile of scores and
/// queries its columns.
template <unsigned WIDTH>
__device__ void attend_backward_keys(
    float *dk, float *dv, const float *q, const float *k, const float *v, const float *dy, const float *logs,
    const float *dots, const unsigned *tiles, Shape shape, Rule rule) {
    DYNAMIC_SHARED(memory);
    float *keys = memory, *values = keys + TILE * (WIDTH + PAD), *others = values + TILE * (WIDTH + PAD);
    float *scores_in_common = others + TILE * (WIDTH + PAD);
    KeyTile tile(tiles);
    unsigned group = blockIdx.y;
    size_t own = shape.key(tile.row, group * shape.share);
    load_tile<WIDTH>(keys, k + own, shape.key_stride(), tile.rows, shape.width);
    load_tile<WIDTH>(values, v + own, shape.key_stride(), tile.rows, shape.width);
    // Queries that see some key of this tile: from the one that stands at the first key to the last that
    // reaches the last one.
    unsigned begin = rule.causal && tile.number > tile.position ? tile.number - tile.position : 0;
    unsigned last_seen_from = tile.number + tile.rows - 1 + rule.window;
    unsigned end = tile.queries;
    if (rule.window > 0) {
        end = min(end, last_seen_from > tile.position ? last_seen_from - tile.position : 0);
    }
    Sums<WIDTH> d_keys, d_values;
    for (unsigned head = group * shape.share; head < (group + 1) * shape.share; head++) {
        for (unsigned first = begin; first < end; first += TILE) {
            size_t start = shape.query(tile.query + first, head);
            unsigned rows = min(TILE, end - first);
            float weights[ROWS][COLUMNS], d_scores[ROWS][COLUMNS], slopes[ROWS][COLUMNS];
            load_tile<WIDTH>(others, q + start, shape.query_stride(), rows, shape.width);
            __syncthreads();
            products<WIDTH>(weights, keys, others);
            for (unsigned i = 0; i < ROWS; i++) {
                for (unsigned j = 0; j < COLUMNS; j++) {
                    unsigned key = own_row() + i, query = own_column() + j * NEIGHBOURS;
                    bool seen = key < tile.rows && query < rows &&
                                rule.shows(tile.position + first + query, tile.number + key);
                    float score = rule.score(weights[i][j]);
                    size_t row = size_t(tile.query + first + query) * shape.heads + head;
                    weights[i][j] = seen ? expf(score - logs[row]) : 0;
                    slopes[i][j] = rule.slope(score);
                }
            }
            share_scores(scores_in_common, weights);
            __syncthreads();
            load_tile<WIDTH>(others, dy + start, shape.query_stride(), rows, shape.width);
            __syncthreads();
            products<WIDTH>(d_scores, values, others);
            d_values.add(scores_in_common, others);
            __syncthreads();
            for (unsigned i = 0; i < ROWS; i++) {
                for (unsigned j = 0; j < COLUMNS; j++) {
                    unsigned query = min(own_column() + j * NEIGHBOURS, rows - 1);
                    float dot = dots[size_t(tile.query + first + query) * shape.heads + head];
                    d_scores[i][j] = weights[i][j] * slopes[i][j] * (d_scores[i][j] - dot);
                }
            }
            share_scores(scores_in_common, d_scores);
            load_tile<WIDTH>(others, q + start, shape.query_stride(), rows, shape.width);
            __syncthreads();
            d_keys.add(scores_in_common, others);
            __syncthreads();
        }
    }
    d_keys.store(dk + own, shape.key_stride(), tile.rows, shape.width, rule.scale);
    d_values.store(dv + own, shape.key_stride(), tile.rows, shape.width, 1);
}

/// The entry points of one tile width; the launch picks the smallest that holds a head.
#define ATTENTION_OF_WIDTH(WIDTH)                                                                                             \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS) attention_##WIDTH(                                        \
        float *out, const float *q, const float *k, const float *v, const unsigned *tiles, unsigned heads, unsigned share,    \
        unsigned width, float scale, float softcap, unsigned window, unsigned causal) {                                       \
        attend<WIDTH>(out, q, k, v, tiles, Shape{heads, share, width}, Rule{scale, softcap, window, causal});                 \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS) attention_backward_queries_##WIDTH(                       \
        float *dq, float *logs, float *dots, const float *q, const float *k, const float *v, const float *dy,                 \
        const unsigned *tiles, unsigned heads, unsigned share, unsigned width, float scale, float softcap, unsigned window,   \
        unsigned causal) {                                                                                                    \
        attend_backward_queries<WIDTH>(                                                                                       \
            dq, logs, dots, q, k, v, dy, tiles, Shape{heads, share, width}, Rule{scale, softcap, window, causal});            \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS) attention_backward_keys_##WIDTH(                          \
        float *dk, float *dv, const float *q, const float *k, const float *v, const float *dy, const float *logs,             \
        const float *dots, const unsigned *tiles, unsigned heads, unsigned share, unsigned width, float scale, float softcap, \
        unsigned window, unsigned causal) {                                                                                   \
        attend_backward_keys<WIDTH>(                                                                                          \
            dk, dv, q, k, v, dy, logs, dots, tiles, Shape{heads, share, width}, Rule{scale, softcap, window, causal});        \
    }

ATTENTION_OF_WIDTH(32)
ATTENTION_OF_WIDTH(64)
ATTENTION_OF_WIDTH(128)
ATTENTION_OF_WIDTH(256)
