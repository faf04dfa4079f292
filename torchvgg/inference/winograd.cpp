// The fast path of `torchvgg.winograd`: convolutions as Winograd's F(4x4, 3x3) after Lavin and Gray (arXiv 1509.09308),
// the first convolution and the dense layers as plain matrix products. Everything is channels last and float32.
//
// A convolution reads a padded map: (N, 4 TH + 2, 4 TW + 2, C), the image at (1, 1), zeros around it. It writes its result,
// bias, ReLU and 2x2 max pool included, to where the caller says: to (1, 1) of the next layer's padded map.
//
//   V = Bt d B   each 6x6 patch d of the map, at every fourth place, for each channel
//   M = V U      36 matrix products, (tiles, C) x (C, K); U = G g Gt was made of the kernels beforehand
//   y = At M A   the 4x4 results of each patch
//
// BT and AT are given as macros, so that the compiler drops what is multiplied by zero.

#include <algorithm>
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

static inline Vector& at(float* p) { return *(Vector*)p; }
static inline Vector at(const float* p) { return *(const Vector*)p; }
static inline Vector relu(Vector x) { return x < 0 ? Vector{} : x; }         // NaN stays NaN
static inline Vector max(Vector a, Vector b) { return (a > b) | (a != a) ? a : b; }

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
static void transform_input(const float* x, long row, int C, float* v, long stride) {
  for (int c = 0; c < C; c += LANES) {
    Vector columns[6][6], patch[6], out[6];
#pragma GCC unroll 6
    for (int j = 0; j < 6; j++) {
#pragma GCC unroll 6
      for (int i = 0; i < 6; i++) patch[i] = at(x + i * row + (long)j * C + c);
      combine(Bt, patch, &columns[0][j], 6);
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) {
      combine(Bt, columns[i], out, 1);
#pragma GCC unroll 6
      for (int j = 0; j < 6; j++) at(v + (i * 6 + j) * stride + c) = out[j];
    }
  }
}

struct Output {
  float* y;                // where (0, 0) of the first image goes
  long image, row, pixel;  // strides
  int height, width;       // after the pool
  const float* bias;
  int relu, pool;
};

static inline void store(const Output& out, float* y, Vector sum, int k) {
  sum += at(out.bias + k);
  at(y + k) = out.relu ? relu(sum) : sum;
}

// One patch's results, all channels, from 36 vectors of K numbers.
static void transform_output(const float* m, long stride, int K, const Output& out, int n, int i, int j) {
  int size = out.pool ? 2 : 4;
  float* corner = out.y + n * out.image + (long)i * size * out.row + (long)j * size * out.pixel;
  int rows = std::min(size, out.height - i * size), columns = std::min(size, out.width - j * size);
  for (int k = 0; k < K; k += LANES) {
    Vector half[4][6], patch[6], y[4][4];
#pragma GCC unroll 6
    for (int b = 0; b < 6; b++) {
#pragma GCC unroll 6
      for (int a = 0; a < 6; a++) patch[a] = at(m + (a * 6 + b) * stride + k);
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
static void block(const float* a, long sa, const float* b, int depth, float* c, long sc) {
  Vector left[R] = {}, right[R] = {};
  for (int d = 0; d < depth; d++, b += COLUMNS) {
    Vector b0 = at(b), b1 = at(b + LANES);
#pragma GCC unroll 14
    for (int r = 0; r < R; r++) {
      float x = a[r * sa + d];
      left[r] += x * b0;
      right[r] += x * b1;
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < R; r++) at(c + r * sc) = left[r], at(c + r * sc + LANES) = right[r];
}

template <int R = ROWS>
static void block_of(int rows, const float* a, long sa, const float* b, int depth, float* c, long sc) {
  if constexpr (R > 1)
    if (rows < R) return block_of<R - 1>(rows, a, sa, b, depth, c, sc);
  block<R>(a, sa, b, depth, c, sc);
}

// The same for any number of rows, in blocks of nearly the same size.
static void product(const float* a, long sa, const float* b, int depth, float* c, long sc, int rows) {
  int blocks = (rows + ROWS - 1) / ROWS;
  for (int i = 0, first = 0; i < blocks; i++) {
    int last = (int)((long)rows * (i + 1) / blocks);
    block_of(last - first, a + first * sa, sa, b, depth, c + first * sc, sc);
    first = last;
  }
}

struct Range { long first, last; };
static Range share(long count, int rank, int team) { return {count * rank / team, count * (rank + 1) / team}; }

extern "C" {

int columns() { return COLUMNS; }

// x: padded map. u: (36, K / COLUMNS, C, COLUMNS). scratch: threads x chunk x 36 x (C + K) numbers.
void convolve(const float* x, int N, int TH, int TW, int C, int K, const float* u, float* scratch, int chunk, int alone,
              int threads, float* y, long image, long row, long pixel, int height, int width, const float* bias, int relu, int pool) {
  Output out = {y, image, row, pixel, height, width, bias, relu, pool};
  long x_row = (4L * TW + 2) * C, x_image = (4L * TH + 2) * x_row, tiles = (long)N * TH * TW;
  long panels = K / COLUMNS, chunks = (tiles + chunk - 1) / chunk;
#pragma omp parallel num_threads(threads)
  {
    int all = omp_get_num_threads(), me = omp_get_thread_num();
    // Small layers: each thread takes chunks of its own, which stay in its cache. Large ones, whose U is larger than that:
    // all threads work on one chunk, each with its part of U.
    int team = alone ? 1 : all, rank = alone ? 0 : me;
    float* v = scratch + (alone ? (long)me * chunk * 36 * (C + K) : 0);
    float* m = v + (long)chunk * 36 * C;
    for (long i = alone ? me : 0; i < chunks; i += alone ? all : 1) {
      long first = tiles * i / chunks, count = tiles * (i + 1) / chunks - first;
      Range mine = share(count, rank, team);
      for (long t = mine.first; t < mine.last; t++) {
        long tile = first + t, n = tile / (TH * TW), r = tile / TW % TH, s = tile % TW;
        transform_input(x + n * x_image + 4 * r * x_row + 4 * s * C, x_row, C, v + t * C, count * C);
      }
      if (!alone) {
#pragma omp barrier
      }
      mine = share(36 * panels, rank, team);
      for (long p = mine.first; p < mine.last; p++) {
        long matrix = p / panels, panel = p % panels;
        product(v + matrix * count * C, C, u + p * C * COLUMNS, C, m + matrix * count * K + panel * COLUMNS, K, (int)count);
      }
      if (!alone) {
#pragma omp barrier
      }
      mine = share(count, rank, team);
      for (long t = mine.first; t < mine.last; t++) {
        long tile = first + t;
        transform_output(m + t * K, count * K, K, out, (int)(tile / (TH * TW)), (int)(tile / TW % TH), (int)(tile % TW));
      }
      if (!alone) {
#pragma omp barrier
      }
    }
  }
}

// A 3x3 convolution of few channels, straight from an image with any strides: the patches are gathered, and it is one
// matrix product. w: (K / COLUMNS, 9 C, COLUMNS).
void convolve_few(const float* x, long sn, long sc, long sh, long sw, int N, int H, int W, int C, int K, const float* w,
                  int threads, float* y, long image, long row, long pixel, const float* bias, int relu) {
  Output out = {y, image, row, pixel, H, W, bias, relu, 0};
  constexpr int STEP = 4 * ROWS;
  int depth = 9 * C, width = W + 2;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> lines(3 * C * width), patches(STEP * depth), sums(STEP * COLUMNS);
#pragma omp for collapse(2)
    for (int n = 0; n < N; n++)
      for (int i = 0; i < H; i++) {
        for (int c = 0; c < C; c++)
          for (int a = 0; a < 3; a++) {  // the three rows that row i sees, with a zero at either end
            float* line = &lines[(3 * c + a) * width];
            const float* p = x + n * sn + c * sc + (i + a - 1) * sh;
            bool outside = i + a < 1 || i + a > H;
            for (int j = 0; j < W; j++) line[j + 1] = outside ? 0 : p[j * sw];
          }
        for (int first = 0; first < W; first += STEP) {
          int count = std::min(STEP, W - first);
          for (int j = 0; j < count; j++)
            for (int l = 0; l < 3 * C; l++)
              for (int b = 0; b < 3; b++) patches[j * depth + 3 * l + b] = lines[l * width + first + j + b];
          for (int k = 0; k < K; k += COLUMNS) {
            product(patches.data(), depth, w + (long)k * depth, depth, sums.data(), COLUMNS, count);
            for (int j = 0; j < count; j++)
              for (int l = 0; l < COLUMNS; l += LANES)
                store(out, y + n * image + i * row + (first + j) * pixel, at(sums.data() + j * COLUMNS + l), k + l);
          }
        }
      }
  }
}

// y (N, K) = x (N, D) w + bias. w: (K / COLUMNS, D, COLUMNS).
void dense(const float* x, int N, int D, int K, const float* w, int threads, float* y, const float* bias, int relu) {
  Output out = {y, 0, K, 0, 0, 0, bias, relu, 0};
#pragma omp parallel for num_threads(threads)
  for (int k = 0; k < K; k += COLUMNS) {
    product(x, D, w + (long)k * D, D, y + k, K, N);
    for (int n = 0; n < N; n++)
      for (int l = k; l < k + COLUMNS; l += LANES) store(out, y + (long)n * K, at(y + (long)n * K + l), l);
  }
}
}
