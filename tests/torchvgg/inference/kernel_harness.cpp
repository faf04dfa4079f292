// Computes layers by winograd.cpp and in double precision, and prints the largest relative error of any.
// No pointer is aligned to more than a float: what a compiler takes for aligned ends in a crash.

#include KERNELS  // the path of winograd.cpp, which needs AT and BT too
#include <cmath>
#include <cstdio>
#include <random>

static const double Gm[6][3] = G;

struct Numbers : std::vector<float> {  // random ones
  explicit Numbers(size_t count) : std::vector<float>(count + 1) {
    static std::mt19937 bits;
    for (float& x : *this) x = (float)(bits() % 4096) / 4096 - 0.5f;
  }
  float* start() { return data() + 1; }
  float& operator[](size_t i) { return start()[i]; }
};

static double worst = 0;

static void compare(Numbers& y, const std::vector<double>& exact) {
  double error = 0, largest = 0;
  for (size_t i = 0; i < exact.size(); i++) {
    error = std::max(error, std::isnan(y[i]) ? INFINITY : std::fabs(y[i] - exact[i]));
    largest = std::max(largest, std::fabs(exact[i]));
  }
  worst = std::max(worst, error / largest);
}

// (matrices, depth, K) as `Kernels.pack` in native.py has it.
static Numbers packed(const std::vector<double>& u, int matrices, int depth, int K) {
  Numbers result(u.size());
  for (int64_t i = 0; i < (int64_t)matrices * depth * K; i++) {
    int64_t k = i % K, d = i / K % depth, matrix = i / K / depth;
    result[((matrix * (K / COLUMNS) + k / COLUMNS) * depth + d) * COLUMNS + k % COLUMNS] = u[i];
  }
  return result;
}

static View view(float* data, int64_t n, int64_t height, int64_t width, int64_t channels) {
  return {data, {n, height, width, channels}, {height * width * channels, width * channels, channels, 1}};
}

static void convolution(int N, int H, int W, int C, int K, bool activated, bool pool, int chunk, bool alone, int threads) {
  int height = (H + 3) / 4 * 4 + 2, width = (W + 3) / 4 * 4 + 2, size = pool ? 2 : 1, OH = H / size, OW = W / size;
  bool few = C < LANES;
  Numbers x(N * height * width * C), g(9 * C * K), bias(K), y(N * OH * OW * K), scratch(threads * chunk * 36 * (C + K));
  for (int i = 0; i < N * height * width * C; i++) {
    int row = i / C / width % height, column = i / C % width;
    if (row < 1 || row > H || column < 1 || column > W) x[i] = 0;
  }
  std::vector<double> exact(N * OH * OW * K, -INFINITY), u(36 * C * K), patches(9 * C * K);
  for (int n = 0; n < N; n++)
    for (int i = 0; i < OH * size; i++)
      for (int j = 0; j < OW * size; j++)
        for (int k = 0; k < K; k++) {
          double sum = bias[k];
          for (int a = 0; a < 3; a++)
            for (int b = 0; b < 3; b++)
              for (int c = 0; c < C; c++) sum += (double)x[((n * height + i + a) * width + j + b) * C + c] * g[((a * 3 + b) * C + c) * K + k];
          double& result = exact[((n * OH + i / size) * OW + j / size) * K + k];
          result = std::max(result, activated ? std::max(sum, 0.0) : sum);
        }
  for (int p = 0; p < 9 * C * K; p++) {
    int tap = p / K / C;
    patches[(p / K % C * 9 + tap) * K + p % K] = g[p];
    for (int i = 0; i < 36; i++) u[i * C * K + p % (C * K)] += Gm[i / 6][tap / 3] * g[p] * Gm[i % 6][tap % 3];
  }
  View out = view(y.start(), N, OH, OW, K);
  if (few) {
    View image = {&x[(width + 1) * C], {N, C, H, W}, {height * width * C, 1, width * C, C}};
    convolve_few(image, packed(patches, 1, 9 * C, K).start(), bias.start(), out, activated, threads);
  } else {
    View memory = view(scratch.start(), threads, chunk, 36, C + K);
    convolve(view(x.start(), N, height, width, C), packed(u, 36, C, K).start(), bias.start(), out, activated, pool, memory, chunk, alone,
             threads);
  }
  compare(y, exact);
}

static void product_of(int N, int D, int K, int threads) {
  Numbers x(N * D), w(D * K), bias(K), y(N * K);
  std::vector<double> exact(N * K);
  for (int n = 0; n < N; n++)
    for (int k = 0; k < K; k++) {
      exact[n * K + k] = bias[k];
      for (int d = 0; d < D; d++) exact[n * K + k] += (double)x[n * D + d] * w[d * K + k];
      exact[n * K + k] = std::max(exact[n * K + k], 0.0);
    }
  std::vector<double> weights(w.start(), w.start() + D * K);
  dense(view(x.start(), N, 1, 1, D), packed(weights, 1, D, K).start(), bias.start(), view(y.start(), N, 1, 1, K), 1, threads);
  compare(y, exact);
}

int main() {
  for (int threads : {1, 2, 4}) {
    convolution(2, 9, 10, 3, 64, true, false, 1, true, threads);
    convolution(1, 64, 5, 4, 32, false, false, 1, true, threads);
    product_of(1, 70, 96, threads);
    product_of(15, 33, 32, threads);
    for (bool alone : {false, true}) {
      convolution(1, 4, 4, 16, 32, false, false, 1, alone, threads);  // fewer tiles than threads
      convolution(2, 13, 22, 48, 64, true, true, 7, alone, threads);
      convolution(1, 9, 27, 32, 96, true, false, 14, alone, threads);
    }
  }
  printf("%.3g\n", worst);
}
