select dt, board_id, user_id, pin_id, ts
from {{ ref('checked_board_pins') }}
where reason is null
