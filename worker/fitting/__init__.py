"""Learning from a whole history at once: the stream's model and objective, iteration after iteration."""

from factorstream.worker.fitting.decomposition import fit_svd as fit_svd
from factorstream.worker.fitting.decomposition import start_from_svd as start_from_svd
from factorstream.worker.fitting.files import save as save
from factorstream.worker.fitting.files import start_from_file as start_from_file
from factorstream.worker.fitting.iterations import MINIBATCH as MINIBATCH
from factorstream.worker.fitting.iterations import Iteration as Iteration
from factorstream.worker.fitting.iterations import fit as fit
from factorstream.worker.fitting.iterations import learning_of_all as learning_of_all
from factorstream.worker.fitting.iterations import objective as objective
from factorstream.worker.fitting.iterations import prepare as prepare
from factorstream.worker.fitting.iterations import rmse as rmse
from factorstream.worker.fitting.iterations import warm_up as warm_up
from factorstream.worker.fitting.splits import Split as Split
from factorstream.worker.fitting.splits import fold as fold
from factorstream.worker.fitting.splits import last_of_each_user as last_of_each_user
from factorstream.worker.fitting.splits import last_writes as last_writes
from factorstream.worker.fitting.splits import split as split
