// LIBMF with a stopwatch: compiled by libmf.py, which puts LIBMF's own mf.cpp on the include path.

#include "mf.cpp"

#include <streambuf>
#include <time.h>

namespace {

double seconds(clockid_t clock) {
    timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

// Of one line of LIBMF's report: when it began and ended, and what processor time all other threads had taken when it began.
struct Line {
    double began, ended, others_cpu;
    char text[128];
};

// Stands in the place of the screen. A line of LIBMF's report begins when an iteration's steps have been taken, before the
// holdout is asked, and ends when that was done, before the next iteration: what lies between lines is learning alone.
class Report : public std::streambuf {
public:
    Report(Line *lines, int n_lines) : line(lines), last(lines + n_lines) {}

private:
    int overflow(int character) override {
        if (line == last) return character;
        if (!length) {
            line->began = seconds(CLOCK_MONOTONIC);
            line->others_cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - seconds(CLOCK_THREAD_CPUTIME_ID);
        }
        if (character != '\n') {
            if (length < int(sizeof line->text) - 1) line->text[length++] = char(character);
            return character;
        }
        line->text[length] = 0;
        line->ended = seconds(CLOCK_MONOTONIC);
        length = 0;
        ++line;
        return character;
    }

    Line *line, *last;
    int length = 0;
};

}  // namespace

// Learn from *training*, a report of *n_iterations* + 1 lines into *lines*, the first of which is its heading. Returns when
// learning began, on the clock of the lines.
extern "C" double learn(mf::mf_problem const *training, mf::mf_problem const *holdout, int rank, int n_threads, int n_bins,
                        int n_iterations, float penalty, float rate, Line *lines) {
    mf::mf_parameter asked = mf::mf_get_default_param();
    asked.k = rank;
    asked.nr_threads = n_threads;
    asked.nr_bins = n_bins;
    asked.nr_iters = n_iterations;
    asked.lambda_p2 = asked.lambda_q2 = penalty;
    asked.eta = rate;
    asked.copy_data = false;
    Report report(lines, n_iterations + 1);
    std::streambuf *screen = std::cout.rdbuf(&report);
    double began = seconds(CLOCK_MONOTONIC);
    mf::mf_model *model = mf::mf_train_with_validation(training, holdout, asked);
    std::cout.rdbuf(screen);
    mf::mf_destroy_model(&model);
    return began;
}
