// The kernels of torchvgg/inference: convolutions by Winograd's F(4x4, 3x3) after Lavin and Gray (arXiv 1509.09308), the first
// convolution and the dense layers as plain matrix products. Everything is channels last and float32.
//
// A convolution reads a padded map: (N, 4 TH + 2, 4 TW + 2, C), the image at (1, 1), zeros around it. It writes its result,
// bias, ReLU and 2x2 max pool included, into the view that the caller gives: (1, 1) of the next layer's padded map, say.
//
//   V = Bt d B   each 6x6 patch d of the map, at every fourth place, for each channel
//   M = V U      36 matrix products, (tiles, C) x (C, K); U = G g Gt is computed from the kernels beforehand
//   y = At M A   the 4x4 results of each patch
//
// BT and AT are macros, so that the compiler drops products with zero.

#include <algorithm>
#include <cstdint>
#include <omp.h>
#include <vector>

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 14;  // of the matrix product's block in registers: ROWS x 2 LANES
#elif defined(__AVX2__)
constexpr int LANES = 8, ROWS = 6;
#elif defined(__aarch64__)
constexpr int LANES = 4, ROWS = 12;
#else
constexpr int LANES = 4, ROWS = 4;
#endif
constexpr int COLUMNS = 2 * LANES;
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static const float Bt[6][6] = BT, At[4][6] = AT;

static inline Vector* at(const float* p) { return (Vector*)p; }  // clang before 18 takes a Vector& for aligned to its whole size
static inline Vector relu(Vector x) { return x < 0 ? Vector{} : x; }         // NaN stays NaN
static inline Vector max(Vector a, Vector b) { return ((a > b) | (a != a)) ? a : b; }

// out[i] = sum over j of matrix[i][j] in[j], in steps of `step` vectors.
template <int OUT>
static inline __attribute__((always_inline)) void combine(const float (&matrix)[OUT][6], const Vector* in, Vector* out, int step) {
#pragma GCC unroll 6
  for (int i = 0; i < OUT; i++) {
    Vector sum = {};
    bool first = true;
#pragma GCC unroll 6
    for (int j = 0; j < 6; j++)
      if (matrix[i][j] != 0) {
        sum = first ? matrix[i][j] * in[j] : sum + matrix[i][j] * in[j];
        first = false;
      }
    out[i * step] = sum;
  }
}

// One patch, all channels: 36 vectors of C numbers, `stride` apart.
static void transform_input(const float* x, int64_t row, int C, float* v, int64_t stride) {
  for (int c = 0; c < C; c += LANES) {
    Vector columns[6][6], patch[6], out[6];
#pragma GCC unroll 4
    for (int j = 6; j < 10; j++)  // what the next patch adds
#pragma GCC unroll 6
      for (int i = 0; i < 6; i++) __builtin_prefetch(x + i * row + (int64_t)j * C + c);
#pragma GCC unroll 6
    for (int j = 0; j < 6; j++) {
#pragma GCC unroll 6
      for (int i = 0; i < 6; i++) patch[i] = *at(x + i * row + (int64_t)j * C + c);
      combine(Bt, patch, &columns[0][j], 6);
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) {
      combine(Bt, columns[i], out, 1);
#pragma GCC unroll 6
      for (int j = 0; j < 6; j++) *at(v + (i * 6 + j) * stride + c) = out[j];
    }
  }
}

// A tensor of four axes; `View` in native.py.
struct View {
  float* data;
  int64_t shape[4], strides[4];
};

struct Output {
  Output(const View& y, const float* bias, int relu, int pool)
      : y(y.data), image(y.strides[0]), row(y.strides[1]), pixel(y.strides[2]), height(y.shape[1]), width(y.shape[2]),
        bias(bias), relu(relu), pool(pool) {}
  float* y;                   // (N, height, width, K), after the pool
  int64_t image, row, pixel;  // strides
  int height, width;
  const float* bias;
  int relu, pool;
};

static inline void store(const Output& out, float* y, Vector sum, int k) {
  sum += *at(out.bias + k);
  *at(y + k) = out.relu ? relu(sum) : sum;
}

// One patch's results, all channels, from 36 vectors of K numbers.
static void transform_output(const float* m, int64_t stride, int K, const Output& out, int n, int i, int j) {
  int size = out.pool ? 2 : 4;
  float* corner = out.y + n * out.image + (int64_t)i * size * out.row + (int64_t)j * size * out.pixel;
  int rows = std::min(size, out.height - i * size), columns = std::min(size, out.width - j * size);
  for (int k = 0; k < K; k += LANES) {
    Vector half[4][6], patch[6], y[4][4];
#pragma GCC unroll 6
    for (int b = 0; b < 6; b++) {
#pragma GCC unroll 6
      for (int a = 0; a < 6; a++) patch[a] = *at(m + (a * 6 + b) * stride + k);
      combine(At, patch, &half[0][b], 6);
    }
#pragma GCC unroll 4
    for (int a = 0; a < 4; a++) combine(At, half[a], y[a], 1);
    for (int a = 0; a < rows; a++)
      for (int b = 0; b < columns; b++)
        store(out, corner + a * out.row + b * out.pixel,
              out.pool ? max(max(y[2 * a][2 * b], y[2 * a][2 * b + 1]), max(y[2 * a + 1][2 * b], y[2 * a + 1][2 * b + 1])) : y[a][b], k);
  }
}

// c (rows x COLUMNS) = a (rows x depth) b (depth x COLUMNS); b is packed, the rows of a and c are `sa` and `sc` apart.
template <int R>
static void block(const float* a, int64_t sa, const float* b, int depth, float* c, int64_t sc) {
  Vector left[R] = {}, right[R] = {};
  const float* next = b + std::min(depth, 512) * COLUMNS;  // the next panel, for the second cache
  for (int d = 0; d < depth; d++, b += COLUMNS) {
    Vector b0 = *at(b), b1 = *at(b + LANES);
    if (R > 1)
      for (int l = 0; l < COLUMNS; l += 16) __builtin_prefetch(next + d * COLUMNS + l, 0, 2);
#pragma GCC unroll 14
    for (int r = 0; r < R; r++) {
      float x = a[r * sa + d];
      left[r] += x * b0;
      right[r] += x * b1;
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < R; r++) *at(c + r * sc) = left[r], *at(c + r * sc + LANES) = right[r];
}

template <int R = ROWS>
static void block_of(int rows, const float* a, int64_t sa, const float* b, int depth, float* c, int64_t sc) {
  if constexpr (R > 1)
    if (rows < R) return block_of<R - 1>(rows, a, sa, b, depth, c, sc);
  block<R>(a, sa, b, depth, c, sc);
}

// The same for any number of rows, in blocks of nearly equal size.
static void product(const float* a, int64_t sa, const float* b, int depth, float* c, int64_t sc, int rows) {
  int blocks = (rows + ROWS - 1) / ROWS;
  for (int i = 0, first = 0; i < blocks; i++) {
    int last = (int)((int64_t)rows * (i + 1) / blocks);
    block_of(last - first, a + first * sa, sa, b, depth, c + first * sc, sc);
    first = last;
  }
}

struct Range { int64_t first, last; };
static Range share(int64_t count, int rank, int team) { return {count * rank / team, count * (rank + 1) / team}; }

extern "C" {

int columns() { return COLUMNS; }
int tiles() { return (12 + ROWS - 1) / ROWS * ROWS; }  // whole blocks of rows

// x: padded map. u: (36, K / COLUMNS, C, COLUMNS). scratch: chunk x 36 x (C + K) numbers, for each thread if `alone`.
void convolve(const View& x, const float* u, const float* bias, const View& y, int relu, int pool, const View& scratch, int64_t chunk,
              int alone, int threads) {
  Output out(y, bias, relu, pool);
  int TH = x.shape[1] / 4, TW = x.shape[2] / 4, C = x.shape[3], K = y.shape[3];
  int64_t x_image = x.strides[0], x_row = x.strides[1], tiles = x.shape[0] * TH * TW;
  int64_t panels = K / COLUMNS, chunks = (tiles + chunk - 1) / chunk;
#pragma omp parallel num_threads(threads)
  {
    int all = omp_get_num_threads(), me = omp_get_thread_num();
    // Each thread takes chunks of its own, or all threads work on one chunk, each with its part of U.
    int team = alone ? 1 : all, rank = alone ? 0 : me;
    float* v = scratch.data + (alone ? (int64_t)me * chunk * 36 * (C + K) : 0);
    float* m = v + (int64_t)chunk * 36 * C;
    for (int64_t i = alone ? me : 0; i < chunks; i += alone ? all : 1) {
      int64_t first = tiles * i / chunks, count = tiles * (i + 1) / chunks - first;
      Range mine = share(count, rank, team);
      for (int64_t t = mine.first; t < mine.last; t++) {
        int64_t tile = first + t, n = tile / (TH * TW), r = tile / TW % TH, s = tile % TW;
        transform_input(x.data + n * x_image + 4 * r * x_row + 4 * s * C, x_row, C, v + t * C, count * C);
      }
      if (!alone) {
#pragma omp barrier
      }
      mine = share(36 * panels, rank, team);
      for (int64_t p = mine.first; p < mine.last; p++) {
        int64_t matrix = p / panels, panel = p % panels;
        product(v + matrix * count * C, C, u + p * C * COLUMNS, C, m + matrix * count * K + panel * COLUMNS, K, (int)count);
      }
      if (!alone) {
#pragma omp barrier
      }
      mine = share(count, rank, team);
      for (int64_t t = mine.first; t < mine.last; t++) {
        int64_t tile = first + t;
        transform_output(m + t * K, count * K, K, out, (int)(tile / (TH * TW)), (int)(tile / TW % TH), (int)(tile % TW));
      }
      if (!alone) {
#pragma omp barrier
      }
    }
  }
}

// A 3x3 convolution of few channels as one matrix product of gathered patches. x: (N, C, H, W) with any strides.
// w: (K / COLUMNS, 9 C, COLUMNS).
void convolve_few(const View& x, const float* w, const float* bias, const View& y, int relu, int threads) {
  Output out(y, bias, relu, 0);
  constexpr int STEP = 4 * ROWS;
  int N = x.shape[0], C = x.shape[1], H = x.shape[2], W = x.shape[3], K = y.shape[3];
  int depth = 9 * C, width = W + 2;
  int64_t step = x.strides[3];
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> lines(3 * C * width), patches(STEP * depth), sums(STEP * COLUMNS);
#pragma omp for collapse(2)
    for (int n = 0; n < N; n++)
      for (int i = 0; i < H; i++) {
        for (int c = 0; c < C; c++)
          for (int a = 0; a < 3; a++) {  // the three rows that row i sees, with a zero at either end
            float* line = &lines[(3 * c + a) * width];
            const float* p = x.data + n * x.strides[0] + c * x.strides[1] + (i + a - 1) * x.strides[2];
            bool outside = i + a < 1 || i + a > H;
            for (int j = 0; j < W; j++) line[j + 1] = outside ? 0 : p[j * step];
          }
        for (int first = 0; first < W; first += STEP) {
          int count = std::min(STEP, W - first);
          for (int j = 0; j < count; j++)
            for (int l = 0; l < 3 * C; l++)
              for (int b = 0; b < 3; b++) patches[j * depth + 3 * l + b] = lines[l * width + first + j + b];
          for (int k = 0; k < K; k += COLUMNS) {
            product(patches.data(), depth, w + (int64_t)k * depth, depth, sums.data(), COLUMNS, count);
            for (int j = 0; j < count; j++)
              for (int l = 0; l < COLUMNS; l += LANES)
                store(out, out.y + n * out.image + i * out.row + (first + j) * out.pixel, *at(sums.data() + j * COLUMNS + l), k + l);
          }
        }
      }
  }
}

// y (N, 1, 1, K) = x (N, 1, 1, D) w + bias, both contiguous. w: (K / COLUMNS, D, COLUMNS).
void dense(const View& x, const float* w, const float* bias, const View& y, int relu, int threads) {
  Output out(y, bias, relu, 0);
  int N = x.shape[0], D = x.shape[3], K = y.shape[3];
#pragma omp parallel for num_threads(threads)
  for (int k = 0; k < K; k += COLUMNS) {
    product(x.data, D, w + (int64_t)k * D, D, y.data + k, K, N);
    for (int n = 0; n < N; n++)
      for (int l = k; l < k + COLUMNS; l += LANES) store(out, y.data + (int64_t)n * K, *at(y.data + (int64_t)n * K + l), l);
  }
}
}
